"""Algorithms as values."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from typing import Any

import optuna
import pytest

from kfasync.errors import InvalidSpecError
from kfasync.optimizer import NSGAII, PBT, TPE, Algorithm, CmaEs, GaussianProcess, GridSearch, RandomSearch, Sobol
from kfasync.optimizer._algorithms import ALGORITHM_REGISTRY

OTHERS = [
    RandomSearch(random_state=3),
    TPE(1, multivariate=True, group=True),
    CmaEs(popsize=5, lr_adapt=True),
    GaussianProcess(deterministic_objective=True),
    Sobol(scramble=True),
    NSGAII(population_size=4, mutation_prob=0.1),
    PBT(3, population_size=4, quantile=0.5, factors=[0.5, 2]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("algorithm", [cls() for cls in ALGORITHM_REGISTRY.values()] + OTHERS, ids=repr)
def test_an_algorithm_survives_json(algorithm: Algorithm) -> None:
    data = json.loads(json.dumps(algorithm.to_dict()))
    assert Algorithm.from_dict({**data, "newer": 1}) == algorithm
    assert data["algorithm"] == algorithm.algorithm_name


def test_names_are_those_of_kubeflow_and_katib() -> None:
    assert (GridSearch().algorithm_name, RandomSearch().algorithm_name) == ("grid", "random")
    assert set(ALGORITHM_REGISTRY) >= {"grid", "random", "tpe", "cmaes", "bayesianoptimization", "sobol", "pbt"}
    assert [f.name for f in dataclasses.fields(RandomSearch)] == ["random_state"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (TPE, optuna.samplers.TPESampler),
        (CmaEs, optuna.samplers.CmaEsSampler),
        (GaussianProcess, optuna.samplers.GPSampler),
        (Sobol, optuna.samplers.QMCSampler),
        (NSGAII, optuna.samplers.NSGAIISampler),
    ],
)
def test_options_have_optunas_names_and_defaults(ours: type[Algorithm], theirs: type) -> None:
    parameters = inspect.signature(theirs).parameters
    for field in dataclasses.fields(ours):  # type: ignore[arg-type]
        name = "seed" if field.name == "random_state" else field.name
        assert parameters[name].default == field.default


@pytest.mark.parametrize(
    ("algorithm", "options", "named"),
    [
        (RandomSearch, {"random_state": -1}, "random_state"),
        (RandomSearch, {"random_state": 2**32}, "random_state"),
        (RandomSearch, {"random_state": True}, "random_state"),
        (RandomSearch, {"random_state": "1"}, "random_state"),
        (TPE, {"n_startup_trials": -1}, "n_startup_trials"),
        (TPE, {"n_ei_candidates": 0}, "n_ei_candidates"),
        (TPE, {"constant_liar": 1}, "constant_liar"),
        (TPE, {"multivariate": False, "group": True}, "group"),
        (CmaEs, {"popsize": 1}, "popsize"),
        (CmaEs, {"with_margin": True, "lr_adapt": True}, "with_margin"),
        (GaussianProcess, {"deterministic_objective": None}, "deterministic_objective"),
        (Sobol, {"scramble": "yes"}, "scramble"),
        (NSGAII, {"population_size": 1}, "population_size"),
        (NSGAII, {"crossover_prob": 1.5}, "crossover_prob"),
        (NSGAII, {"mutation_prob": -0.5}, "mutation_prob"),
        (PBT, {"population_size": 1}, "population_size"),
        (PBT, {"quantile": 0}, "quantile"),
        (PBT, {"quantile": 0.6}, "quantile"),
        (PBT, {"factors": 0.8}, "factors"),
        (PBT, {"factors": "0.8"}, "factors"),
        (PBT, {"factors": ()}, "factors"),
        (PBT, {"factors": (1.0,)}, "factors"),
        (PBT, {"factors": (-0.8,)}, "factors"),
        (PBT, {"factors": (0.8, math.inf)}, "factors"),
        (PBT, {"resample_probability": 1.1}, "resample_probability"),
    ],
)
def test_a_wrong_option_is_refused_by_name(algorithm: Any, options: Any, named: str) -> None:
    with pytest.raises(InvalidSpecError, match=f"{algorithm.__name__}.*{named}"):
        algorithm(**options)


def test_an_algorithm_of_a_newer_version_is_named() -> None:
    with pytest.raises(InvalidSpecError, match="'newest'"):
        Algorithm.from_dict({"algorithm": "newest"})
