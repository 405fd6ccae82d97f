"""What goes together."""

from __future__ import annotations

from typing import Any

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.optimizer import (
    PBT,
    TPE,
    CmaEs,
    GaussianProcess,
    GridSearch,
    MedianStop,
    Objective,
    RandomSearch,
    Search,
    SearchSpace,
    TrialConfig,
)
from kfasync.optimizer._combine import check_population, check_search
from kfasync.optimizer._parameter import ParameterSpec
from kfasync.optimizer._sampler import Sampler

LOSS = [Objective()]
BOTH = [Objective("loss"), Objective("accuracy", "maximize")]
PLANE = SearchSpace({"x": Search.uniform(-1, 1), "y": Search.uniform(-1, 1)})


@pytest.mark.parametrize(
    ("objectives", "algorithm", "rule", "named"),
    [
        ([], RandomSearch(), None, "objectives"),
        ([Objective("a"), Objective("a")], RandomSearch(), None, "'a'"),
        (BOTH, CmaEs(), None, "CmaEs"),
        (BOTH, TPE(), MedianStop(), "MedianStop"),
        (LOSS, "tpe", None, "'tpe'"),
        (LOSS, TPE, None, "TPE"),
        (LOSS, TPE(), "median", "'median'"),
        (LOSS, GridSearch(), None, "'x'"),
        (BOTH, PBT(), None, "PBT"),
        (LOSS, PBT(), MedianStop(), "MedianStop"),
    ],
)
def test_what_does_not_go_together_is_refused(objectives: Any, algorithm: Any, rule: Any, named: str) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        check_search(PLANE, objectives, algorithm, rule)
    with pytest.raises(InvalidSpecError, match=named):
        Sampler(PLANE, objectives, algorithm, rule)


@pytest.mark.parametrize("spec", [Search.int(0, 2**40), Search.logint(1, 2**40), Search.quniform(0, 1, 1e-9)], ids=repr)
def test_steps_that_no_memory_holds_are_refused_to_the_gaussian_process(spec: ParameterSpec) -> None:
    with pytest.raises(InvalidSpecError, match="'n'"):
        check_search(SearchSpace({"n": spec}), LOSS, GaussianProcess())
    check_search(SearchSpace({"n": spec}), LOSS, TPE())


def test_a_conditional_parameter_is_refused_to_a_population() -> None:
    space = SearchSpace({"kind": Search.choice(["sgd", "adam"]), "momentum": Search.uniform(0, 1).when("kind", "sgd")})
    with pytest.raises(InvalidSpecError, match="'momentum' is conditional"):
        check_search(space, LOSS, PBT())


def test_a_population_is_a_search_of_its_own() -> None:
    with pytest.raises(InvalidSpecError, match="PBT"):
        Sampler(PLANE, LOSS, PBT())


@pytest.mark.parametrize(
    ("config", "points", "named"),
    [
        (TrialConfig(4), 0, "num_trials=4"),
        (TrialConfig(20, 5), 0, "parallel_trials=5"),
        (TrialConfig(20), 5, "5 points"),
    ],
)
def test_a_population_that_can_not_be_trained_with_so_many_trials_is_refused(
    config: TrialConfig, points: int, named: str
) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        check_population(PBT(population_size=4), config, points)
    check_population(RandomSearch(), config, points)
    check_population(PBT(population_size=4), TrialConfig(5, 4), 4)
