"""Numbers in a range or a distribution."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfasync.errors import InvalidSpecError
from kfasync.optimizer import ContinuousSearchSpace, Distribution, Search
from kfasync.optimizer._parameter import ParameterSpec

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    "spec",
    [
        Search.uniform(1, 1),
        Search.uniform(2, 1),
        Search.uniform(0, INF),
        Search.uniform(NAN, 1),
        Search.uniform(False, True),
        Search.uniform("0", 1),
        Search.uniform(None, 1),
        Search.uniform(-1.7e308, 1.7e308),
        Search.uniform(0, 10**400),
        Search.loguniform(0, 1),
        Search.loguniform(-1, 1),
        ContinuousSearchSpace(0, 1, "gaussian"),
        Search.int(3, 3),
        Search.int(0, 2.5),
        Search.int(True, 3),
        Search.int(0, 3, 0),
        Search.int(0, 3, -1),
        Search.int(0, 3, 4),
        Search.int(0, 2**60),
        Search.logint(0, 8),
        Search.logint(5, 5),
        Search.quniform(0, 1, 0),
        Search.quniform(0, 1, -0.1),
        Search.quniform(0, 1, 2),
        Search.quniform(0, 1, NAN),
        Search.quniform(0, 1e300, 1e-300),
        Search.normal(0, 0),
        Search.normal(0, -1),
        Search.normal(INF, 1),
        Search.normal(1e308, 1e308),
        Search.lognormal(800, 1),
        Search.lognormal(-800, 1),
        Search.lognormal(0, 0),
    ],
    ids=repr,
)
def test_what_can_not_be_searched_is_refused_by_name(spec: ParameterSpec) -> None:
    with pytest.raises(InvalidSpecError, match="'lr'"):
        spec.checked("lr")


def test_bounds_become_floats_and_whole_numbers_ints() -> None:
    spec = Search.uniform(0, 1).checked("x")
    assert (type(spec.min), type(spec.max)) == (float, float)
    numbers = Search.int(np.int64(1), np.int64(9), np.int32(2)).checked("x")
    assert list(map(type, (numbers.min, numbers.max, numbers.step))) == [int, int, int]


def test_names_and_values_of_the_distributions_are_those_of_kubeflow() -> None:
    assert {d.name: d.value for d in Distribution} == {"UNIFORM": "uniform", "LOG_UNIFORM": "logUniform"}
    assert Search.loguniform(0.1, 1) == ContinuousSearchSpace(0.1, 1, Distribution.LOG_UNIFORM)
    assert Search.uniform(0.1, 1).distribution == "uniform"


def test_quantised_values_are_decimal() -> None:
    spec = Search.quniform(0.1, 0.75, 0.2).checked("q")
    assert list(spec.grid()) == [0.1, 0.3, 0.5, 0.7]


def test_a_step_as_large_as_the_range_is_two_values() -> None:
    # 0.3 - 0.1 is less than 0.2 in floats.
    assert list(Search.quniform(0.1, 0.3, 0.2).checked("q").grid()) == [0.1, 0.3]
    assert list(Search.int(1, 4, 3).checked("n").grid()) == [1, 4]


@pytest.mark.parametrize(
    ("spec", "value", "typed"),
    [
        (Search.uniform(0, 2), 1, 1.0),
        (Search.uniform(0, 2), np.float32(0.5), 0.5),
        (Search.int(0, 8, 2), 4.0, 4),
        (Search.int(0, 8, 2), np.int64(4), 4),
        (Search.quniform(0, 1, 0.1), 0.1 + 0.2, 0.3),
        (Search.normal(0, 1), 100, 100.0),
        (Search.lognormal(0, 1), 100, 100.0),
    ],
)
def test_a_given_value_takes_the_parameters_type(spec: ParameterSpec, value: object, typed: object) -> None:
    accepted = spec.checked("x").accept(value, "x")
    assert accepted == typed
    assert type(accepted) is type(typed)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (Search.uniform(0, 2), 2.1),
        (Search.uniform(0, 2), NAN),
        (Search.uniform(0, 2), True),
        (Search.uniform(0, 2), "1"),
        (Search.int(0, 9, 2), 9),
        (Search.int(0, 9, 2), 3),
        (Search.int(0, 9), 1.5),
        (Search.quniform(0, 1, 0.1), 0.15),
        (Search.quniform(0, 1, 0.3), 1.0),
        (Search.normal(0, 1), INF),
        (Search.lognormal(0, 1), 0),
    ],
)
def test_an_impossible_value_is_refused_by_name(spec: ParameterSpec, value: object) -> None:
    with pytest.raises(InvalidSpecError, match="'x'"):
        spec.checked("x").accept(value, "x")


@pytest.mark.parametrize(("u", "z"), [(0.5, 0.0), (0.975, 1.959963984540054), (0.025, -1.959963984540054)])
def test_quantiles_of_the_normal_distribution(u: float, z: float) -> None:
    assert Search.normal(10, 2).at(u) == pytest.approx(10 + 2 * z, abs=1e-12)
    assert Search.lognormal(1, 0.5).at(u) == pytest.approx(math.exp(1 + 0.5 * z), rel=1e-12)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-100, 100), st.floats(0.01, 100))
def test_the_normals_quantiles_ascend_and_invert(u: float, v: float, mean: float, std: float) -> None:
    normal, log = Search.normal(mean, std), Search.lognormal(mean / 50, std / 50)
    low, high = sorted((u, v))
    assert normal.at(low) <= normal.at(high)
    assert 0 < log.at(low) <= log.at(high) < INF
    inner = min(max(u, 1e-5), 1 - 1e-5)
    assert normal.position(normal.at(inner)) == pytest.approx(inner, abs=1e-9)
    assert log.position(log.at(inner)) == pytest.approx(inner, abs=1e-9)


def test_even_the_ends_of_the_unit_interval_are_ordinary_values() -> None:
    assert Search.normal(0, 1).at(0.0) == pytest.approx(NormalDist().inv_cdf(2**-20))
    assert Search.normal(0, 1).at(1.0) == pytest.approx(-Search.normal(0, 1).at(0.0))
