"""Specs of numbers in a range or a distribution. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from statistics import NormalDist
from typing import Any, ClassVar, Self

from kfasync.errors import InvalidSpecError
from kfasync.optimizer._checks import LARGEST, real, whole
from kfasync.optimizer._parameter import ParameterSpec, Value

__all__ = [
    "ContinuousSearchSpace",
    "Distribution",
    "IntegerSearchSpace",
    "LogNormalSearchSpace",
    "NormalSearchSpace",
    "QuantizedSearchSpace",
]


class Distribution(StrEnum):
    """How values are spread between the bounds. A member equals its text, Kubeflow's name of it."""

    UNIFORM = "uniform"
    LOG_UNIFORM = "logUniform"


def _ordered(low: float, high: float, name: str) -> None:
    if not low < high:
        raise InvalidSpecError(f"parameter {name!r}: min={low!r} must be less than max={high!r}")
    if not math.isfinite(high - low):
        raise InvalidSpecError(f"parameter {name!r}: from {low!r} to {high!r} is wider than a float can say")


def _log(low: float, distribution: Any, name: str, least: str) -> Distribution:
    if distribution not in tuple(Distribution):
        raise InvalidSpecError(
            f"parameter {name!r}: {distribution!r} is no distribution: use {list(map(str, Distribution))}"
        )
    if distribution == Distribution.LOG_UNIFORM and low <= 0:
        raise InvalidSpecError(f"parameter {name!r}: min={low!r} has no logarithm: it must be {least}")
    return Distribution(distribution)


def _within(value: Any, low: float, high: float, name: str) -> None:
    if not low <= value <= high:
        raise InvalidSpecError(f"parameter {name!r} can't be {value!r}: it lies between {low!r} and {high!r}")


@dataclass(frozen=True)
class ContinuousSearchSpace(ParameterSpec):
    """A float between ``min`` and ``max``."""

    type: ClassVar[str] = "float"
    min: float
    max: float
    distribution: Distribution = Distribution.UNIFORM

    def checked(self, name: str) -> Self:
        low, high = (real(v, f"parameter {name!r}: {k}") for k, v in (("min", self.min), ("max", self.max)))
        _ordered(low, high, name)
        distribution = _log(low, self.distribution, name, "greater than 0")
        return dataclasses.replace(self, min=low, max=high, distribution=distribution)

    def accept(self, value: Any, name: str) -> float:
        number = real(value, f"parameter {name!r}")
        _within(number, self.min, self.max, name)
        return number


@dataclass(frozen=True)
class IntegerSearchSpace(ParameterSpec):
    """An int: ``min``, ``min + step``, … up to ``max``; with the log distribution ``step`` is 1."""

    type: ClassVar[str] = "int"
    min: int
    max: int
    step: int = 1
    distribution: Distribution = Distribution.UNIFORM

    def checked(self, name: str) -> Self:
        what = f"parameter {name!r}"
        low, high = whole(self.min, f"{what}: min"), whole(self.max, f"{what}: max")
        _ordered(low, high, name)
        step = whole(self.step, f"{what}: step", least=1)
        if step > high - low:
            raise InvalidSpecError(f"{what}: step={step} leaves only min={low} of the range up to {high}")
        distribution = _log(low, self.distribution, name, "1 or more")
        if distribution == Distribution.LOG_UNIFORM and step != 1:
            raise InvalidSpecError(f"{what}: step must be 1 with a log distribution, not {step}")
        return dataclasses.replace(self, min=low, max=high, step=step, distribution=distribution)

    @property
    def last(self) -> int:
        """The largest value that a step reaches."""
        return self.min + (self.max - self.min) // self.step * self.step

    def accept(self, value: Any, name: str) -> int:
        number = real(value, f"parameter {name!r}")
        _within(number, self.min, self.last, name)
        if number != int(number) or (int(number) - self.min) % self.step:
            raise InvalidSpecError(
                f"parameter {name!r} can't be {value!r}: it is {self.min} plus multiples of {self.step}"
            )
        return int(number)

    def grid(self) -> Iterator[Value]:
        return iter(range(self.min, self.last + 1, self.step))


@dataclass(frozen=True)
class QuantizedSearchSpace(ParameterSpec):
    """A float: ``min``, ``min + q``, ``min + 2 q``, … up to ``max``, in decimal: 0.3, not 0.30000000000000004."""

    type: ClassVar[str] = "quantized"
    min: float
    max: float
    q: float

    def checked(self, name: str) -> Self:
        given = (("min", self.min), ("max", self.max), ("q", self.q))
        low, high, q = (real(v, f"parameter {name!r}: {k}") for k, v in given)
        _ordered(low, high, name)
        if q <= 0:
            raise InvalidSpecError(f"parameter {name!r}: q={q!r} must be greater than 0")
        if (high - low) / q >= LARGEST:
            raise InvalidSpecError(f"parameter {name!r}: q={q!r} is too small for the range {low!r} to {high!r}")
        spec = dataclasses.replace(self, min=low, max=high, q=q)
        if spec.steps < 1:
            raise InvalidSpecError(f"parameter {name!r}: q={q!r} is more than max - min")
        return spec

    @property
    def steps(self) -> int:
        """How many steps lie between the smallest and the largest value."""
        return int((Decimal(repr(self.max)) - Decimal(repr(self.min))) // Decimal(repr(self.q)))

    def at(self, step: int) -> float:
        """The value after so many steps."""
        return float(Decimal(repr(self.min)) + step * Decimal(repr(self.q)))

    def step_of(self, value: float) -> int:
        """The step nearest to a value."""
        return min(max(round((value - self.min) / self.q), 0), self.steps)

    def accept(self, value: Any, name: str) -> float:
        number = real(value, f"parameter {name!r}")
        nearest = self.at(self.step_of(number))
        # A millionth of a step: what arithmetic with floats gets wrong, and nothing that somebody means.
        if abs(number - nearest) > 1e-6 * self.q:
            raise InvalidSpecError(
                f"parameter {name!r} can't be {value!r}: it is {self.min!r} plus multiples of {self.q!r}, "
                f"at most {self.at(self.steps)!r}"
            )
        return nearest

    def grid(self) -> Iterator[Value]:
        return (self.at(step) for step in range(self.steps + 1))


#: A millionth: quantiles end at 4.76 standard deviations. The limit is not that of a double (8.2), for algorithms that
#: look at the ends of a range (a Sobol sequence starts at 0) would otherwise try what no normal variable ever is.
_TAIL = 2.0**-20
_REACH = 5.0


@dataclass(frozen=True)
class NormalSearchSpace(ParameterSpec):
    """A float from the normal distribution, drawn by the inverse of its cumulative distribution function."""

    type: ClassVar[str] = "normal"
    mean: float
    std: float

    def checked(self, name: str) -> Self:
        mean, std = (real(v, f"parameter {name!r}: {k}") for k, v in (("mean", self.mean), ("std", self.std)))
        if std <= 0:
            raise InvalidSpecError(f"parameter {name!r}: std={std!r} must be greater than 0")
        if not all(map(math.isfinite, (mean - _REACH * std, mean + _REACH * std))):
            raise InvalidSpecError(f"parameter {name!r}: mean={mean!r} and std={std!r} are too large for a float")
        return dataclasses.replace(self, mean=mean, std=std)

    def at(self, u: float) -> float:
        """The quantile of ``u``, a number from 0 to 1; the ends are moved inwards by a millionth.

        Example:
            >>> NormalSearchSpace(10.0, 2.0).at(0.5)
            10.0
        """
        return NormalDist(self.mean, self.std).inv_cdf(min(max(u, _TAIL), 1 - _TAIL))

    def position(self, value: float) -> float:
        """The share of the distribution below a value: the inverse of `at`."""
        return NormalDist(self.mean, self.std).cdf(value)

    def moved(self, value: float, deviations: float) -> float:
        """The value so many standard deviations away from another one."""
        return value + deviations * self.std

    def accept(self, value: Any, name: str) -> float:
        return real(value, f"parameter {name!r}")


@dataclass(frozen=True)
class LogNormalSearchSpace(NormalSearchSpace):
    """A positive float whose logarithm is normal; ``mean`` and ``std`` are those of the logarithm."""

    type: ClassVar[str] = "lognormal"

    def checked(self, name: str) -> Self:
        spec = super().checked(name)
        low, high = spec.mean - _REACH * spec.std, spec.mean + _REACH * spec.std
        if not -700 < low < high < 700:
            raise InvalidSpecError(
                f"parameter {name!r}: mean={spec.mean!r} and std={spec.std!r} are those of the logarithm; "
                "with these, values would leave the range of a float"
            )
        return spec

    def at(self, u: float) -> float:
        return math.exp(super().at(u))

    def position(self, value: float) -> float:
        return super().position(math.log(value))

    def moved(self, value: float, deviations: float) -> float:
        return value * math.exp(deviations * self.std)

    def accept(self, value: Any, name: str) -> float:
        number = real(value, f"parameter {name!r}")
        if number <= 0:
            raise InvalidSpecError(f"parameter {name!r} can't be {value!r}: it is greater than 0")
        return number
