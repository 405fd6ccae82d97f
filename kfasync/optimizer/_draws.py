"""Independent draws, number for number those of Optuna's random sampler, for searches that need nothing else of it.

A driver that loads no Optuna starts its first trial half a second earlier.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._parameter import CategoricalSearchSpace, ParameterSpec, Value
from kfasync.optimizer._ranges import (
    ContinuousSearchSpace,
    Distribution,
    IntegerSearchSpace,
    NormalSearchSpace,
    QuantizedSearchSpace,
)
from kfasync.optimizer._space import SearchSpace

__all__ = ["Draws"]

# Words of the Mersenne Twister's state, and the multiplier that fills them from a seed.
_WORDS, _KNUTH = 624, 1812433253
_VERSION = 3  # Of the tuple that `random.Random.setstate` takes.


class Draws:
    """What a `Sampler` asks and tells when it draws at random, or has every point given. It keeps no results.

    Args:
        space: Where to search.
        seed: The same one gives the same points as Optuna's (to the last bit where the compiler of its numpy does not
            fuse a product with a sum, as on x86-64).

    Example:
        >>> from kfasync.optimizer import Search, SearchSpace
        >>> Draws(SearchSpace({"x": Search.uniform(0, 1)}), seed=0).suggest({})
        {'x': 0.5488135039273248}
    """

    def __init__(self, space: SearchSpace, seed: int | None) -> None:
        self._space = space
        self._random = random.Random() if seed is None else _twister(seed)
        self._over = bytearray()
        self._noted: dict[int, Mapping[str, Any]] = {}

    @property
    def count(self) -> int:
        """How many trials there are."""
        return len(self._over)

    def ended(self, number: int) -> bool:
        """Whether a trial has ended."""
        return bool(self._over[number])

    def steps(self, number: int) -> Mapping[int, float]:
        """Nothing: what a trial reports matters to nobody here."""
        return {}

    def noted(self, number: int) -> Mapping[str, Any]:
        """The values that were given and not drawn, under Optuna's name for them."""
        return self._noted.get(number, {})

    def go_on(self, draws: int) -> None:
        """Before the first `suggest`: pass over the numbers that the trials took which were appended."""
        for _ in range(draws):
            self._random.random()

    def suggest(self, fixed: Mapping[str, Value]) -> dict[str, Value]:
        """The parameters of the next trial, of which some may be fixed."""
        point: dict[str, Value] = {}
        for name, spec in self._space.parameters.items():
            if self._space.active(name, point):
                point[name] = fixed[name] if name in fixed else self._draw(spec)
        if fixed:
            self._noted[self.count] = {"fixed_params": dict(fixed)}
        self._over.append(False)
        return point

    def append(
        self,
        state: TrialState,
        point: Mapping[str, Value],
        values: list[float] | None = None,
        steps: dict[int, float] | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """Take up a trial that exists already as the next one."""
        if notes:
            self._noted[self.count] = notes
        self._over.append(state != TrialState.RUNNING)

    def report(self, number: int, step: int, value: float) -> None:
        """A running trial's value at a step; not needed here."""

    def prunes(self, number: int) -> bool:
        """There is no rule here that could."""
        return False

    def end(self, number: int, state: TrialState, values: list[float] | None) -> None:
        """Note that a trial has ended."""
        self._over[number] = True

    # Each draw below takes as many random numbers, and rounds as, Optuna's `_SearchSpaceTransform`.

    def _draw(self, spec: ParameterSpec) -> Value:
        match spec:
            case CategoricalSearchSpace():
                return self._choice(spec)
            case ContinuousSearchSpace():
                return self._float(spec)
            case IntegerSearchSpace():
                return self._int(spec)
            case QuantizedSearchSpace():
                last = spec.at(spec.steps)
                drawn = self._uniform(spec.min - spec.q / 2, last + spec.q / 2)
                return spec.at(spec.step_of(min(max(drawn, spec.min), last)))
            case NormalSearchSpace():
                return spec.at(self._random.random())
        raise TypeError(spec)

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def _choice(self, spec: CategoricalSearchSpace) -> Value:
        if len(spec.choices) == 1:
            return spec.choices[0]
        ranks = [self._random.random() for _ in spec.choices]
        return spec.choices[ranks.index(max(ranks))]

    def _float(self, spec: ContinuousSearchSpace) -> float:
        below = math.nextafter(spec.max, spec.max - 1)
        if spec.distribution == Distribution.LOG_UNIFORM:
            drawn = math.exp(self._uniform(math.log(spec.min), math.log(spec.max)))
            return max(min(drawn, below), spec.min)
        return min(self._uniform(spec.min, spec.max), below)

    def _int(self, spec: IntegerSearchSpace) -> int:
        half = spec.step / 2
        if spec.distribution == Distribution.LOG_UNIFORM:
            value = round(math.exp(self._uniform(math.log(spec.min - half), math.log(spec.last + half))))
        else:
            drawn = self._uniform(spec.min - half, spec.last + half)
            value = math.floor((drawn - spec.min) / spec.step + 0.5) * spec.step + spec.min
        return min(max(value, spec.min), spec.last)


def _twister(seed: int) -> random.Random:
    """Python's generator in the state that numpy gives the same generator for a seed; its own seeding is another."""
    words = [seed]
    for index in range(1, _WORDS):
        words.append((_KNUTH * (words[-1] ^ words[-1] >> 30) + index) & 0xFFFFFFFF)
    twister = random.Random()
    twister.setstate((_VERSION, (*words, _WORDS), None))
    return twister
