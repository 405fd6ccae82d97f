"""Values of a parameter from chance alone: a new one, or one beside another. Pure."""

from __future__ import annotations

import math
from random import Random

from kfasync.optimizer._parameter import CategoricalSearchSpace, ParameterSpec, Value
from kfasync.optimizer._ranges import (
    ContinuousSearchSpace,
    Distribution,
    IntegerSearchSpace,
    NormalSearchSpace,
    QuantizedSearchSpace,
)

__all__ = ["draw", "perturb"]


def draw(spec: ParameterSpec, random: Random) -> Value:
    """A value by the parameter's own distribution.

    Example:
        >>> draw(CategoricalSearchSpace((7,)), Random(0))
        7
    """
    match spec:
        case ContinuousSearchSpace(distribution=Distribution.LOG_UNIFORM):
            exponent = random.uniform(math.log(spec.min), math.log(spec.max))
            return _clipped(math.exp(exponent), spec.min, spec.max)
        case ContinuousSearchSpace():
            return _clipped(random.uniform(spec.min, spec.max), spec.min, spec.max)
        case IntegerSearchSpace(distribution=Distribution.LOG_UNIFORM):
            # Half a step more at either end, so that the ends get their share.
            exponent = random.uniform(math.log(spec.min - 0.5), math.log(spec.max + 0.5))
            return _clipped(round(math.exp(exponent)), spec.min, spec.max)
        case IntegerSearchSpace():
            return random.randrange(spec.min, spec.last + 1, spec.step)
        case QuantizedSearchSpace():
            return spec.at(random.randint(0, spec.steps))
        case CategoricalSearchSpace():
            return random.choice(spec.choices)
        case NormalSearchSpace():
            return spec.at(random.random())
    raise TypeError(spec)


def perturb(spec: ParameterSpec, value: Value, factor: float) -> Value:
    """A value beside another, as population based training explores.

    A number is multiplied and kept in its range; where that leaves it on the same step it goes to the next one, so that
    small integers move as well. One of several choices goes to the next (``factor`` above 1) or the one before it. A
    normal has no size to be multiplied: it moves by ``factor - 1`` standard deviations, a lognormal by those of its
    logarithm. What lies at the end of its range may stay there.

    Args:
        spec: The parameter.
        value: One of its values.
        factor: Above or below 1.

    Example:
        >>> perturb(IntegerSearchSpace(1, 9), 2, 1.2)
        3
    """
    match spec:
        case ContinuousSearchSpace():
            return _clipped(_number(value) * factor, spec.min, spec.max)
        case IntegerSearchSpace():
            at, way = (int(_number(value)) - spec.min) // spec.step, _way(value, factor) / spec.step
            return spec.min + _step(at, way, (spec.last - spec.min) // spec.step) * spec.step
        case QuantizedSearchSpace():
            return spec.at(_step(spec.step_of(_number(value)), _way(value, factor) / spec.q, spec.steps))
        case CategoricalSearchSpace():
            at = spec.index(value) or 0
            return spec.choices[_step(at, math.copysign(1, factor - 1), len(spec.choices) - 1)]
        case NormalSearchSpace():
            return _clipped(spec.moved(_number(value), factor - 1), spec.at(0), spec.at(1))
    raise TypeError(spec)


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return value


def _clipped(value: float, low: float, high: float) -> Value:
    return min(max(value, low), high)


def _way(value: Value, factor: float) -> float:
    """How far a number goes when it is multiplied; 0, which would go nowhere, goes the factor's way."""
    return (_number(value) or 1.0) * (factor - 1)


def _step(at: int, way: float, last: int) -> int:
    """The step that so many steps lead to, at least one."""
    steps = round(way) or math.copysign(1, way)
    return min(max(at + int(steps), 0), last)
