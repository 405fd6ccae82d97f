"""Values from chance, and values beside values."""

from __future__ import annotations

import collections
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfasync.optimizer import Search
from kfasync.optimizer._explore import draw, perturb
from kfasync.optimizer._parameter import ParameterSpec
from tests.optimizer.spaces import CONTINUOUS, STEPPED

FACTORS = st.sampled_from([0.5, 0.8, 1.2, 2.0])


@given(STEPPED | CONTINUOUS, st.integers(), FACTORS)
def test_drawn_and_perturbed_values_are_of_the_space_and_typed(spec: ParameterSpec, seed: int, factor: float) -> None:
    spec = spec.checked("p")
    value = draw(spec, Random(seed))
    for _ in range(30):
        accepted = spec.accept(value, "p")
        assert repr(accepted) == repr(value)
        value = perturb(spec, value, factor)


@given(STEPPED, st.integers(), FACTORS)
def test_a_step_is_always_taken_except_at_the_end_of_a_range(spec: ParameterSpec, seed: int, factor: float) -> None:
    spec = spec.checked("p")
    values = list(spec.grid() or ())
    at = Random(seed).randrange(len(values))
    moved = perturb(spec, values[at], factor)
    if 0 < at < len(values) - 1:
        assert repr(moved) != repr(values[at])


@pytest.mark.parametrize(
    ("spec", "value", "factor", "expected"),
    [
        (Search.uniform(0, 1), 0.5, 1.2, 0.6),
        (Search.uniform(0, 1), 0.9, 1.2, 1.0),
        (Search.uniform(-1, 1), -0.5, 1.2, -0.6),
        (Search.loguniform(0.1, 10), 1.0, 0.8, 0.8),
        (Search.loguniform(0.1, 10), 0.1, 0.8, 0.1),
        (Search.int(0, 100), 50, 1.2, 60),
        (Search.int(0, 100), 2, 0.8, 1),
        (Search.int(0, 4), 0, 1.2, 1),
        (Search.int(0, 100, 10), 50, 1.2, 60),
        (Search.int(-9, 9), -5, 1.2, -6),
        (Search.logint(1, 9), 1, 0.8, 1),
        (Search.quniform(0, 1, 0.1), 0.5, 1.2, 0.6),
        (Search.quniform(0, 1, 0.25), 0.25, 1.2, 0.5),
        (Search.choice([16, 32, 64]), 32, 1.2, 64),
        (Search.choice([16, 32, 64]), 32, 0.1, 16),
        (Search.choice([16, 32, 64]), 64, 1.2, 64),
        (Search.normal(100, 10), 100.0, 1.2, 102.0),
        (Search.normal(0, 1), 0.0, 0.8, -0.2),
        (Search.lognormal(0, 1), 1.0, 1.2, math.exp(0.2)),
    ],
    ids=repr,
)
def test_each_kind_of_parameter_moves_by_its_own_measure(
    spec: ParameterSpec, value: Any, factor: float, expected: Any
) -> None:
    moved = perturb(spec.checked("p"), value, factor)
    assert moved == (pytest.approx(expected) if isinstance(expected, float) else expected)
    assert type(moved) is type(expected)


def test_a_normal_stays_where_one_can_be() -> None:
    spec = Search.normal(0, 1).checked("p")
    value: Any = 4.7
    for _ in range(10):
        value = perturb(spec, value, 1.2)
    assert value == spec.at(1) < 5


@pytest.mark.parametrize(
    ("spec", "half"),
    [
        (Search.uniform(0, 2), 1.0),
        (Search.loguniform(0.01, 100), 1.0),
        (Search.int(1, 10), 5),
        (Search.logint(1, 1023), 22),
        (Search.quniform(0, 0.9, 0.1), 0.45),
        (Search.normal(3, 1), 3.0),
        (Search.lognormal(0, 2), 1.0),
    ],
    ids=repr,
)
def test_half_of_all_draws_lie_in_the_lower_half(spec: ParameterSpec, half: float) -> None:
    chance = Random(7)
    drawn: list[Any] = [draw(spec.checked("p"), chance) for _ in range(2000)]
    assert 0.45 < sum(value <= half for value in drawn) / len(drawn) < 0.55


def test_each_choice_and_each_step_has_its_share() -> None:
    chance = Random(7)
    for spec in (Search.choice([True, None, 1.5]), Search.int(1, 3), Search.quniform(0, 1, 0.5)):
        counts = collections.Counter(draw(spec.checked("p"), chance) for _ in range(3000))
        assert len(counts) == 3
        assert min(counts.values()) > 900
