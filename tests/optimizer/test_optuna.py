"""One at a time and with the same seed, our trials are Optuna's."""

from __future__ import annotations

import logging
import math
import warnings
from statistics import NormalDist
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kfasync.optimizer import (
    ASHA,
    NSGAII,
    TPE,
    Algorithm,
    CmaEs,
    EarlyStopping,
    GaussianProcess,
    Hyperband,
    MedianStop,
    Objective,
    Patient,
    RandomSearch,
    Search,
    SearchSpace,
    Sobol,
)
from kfasync.optimizer._sampler import Sampler

SPACE = SearchSpace(
    {
        "lr": Search.loguniform(1e-5, 1e-1),
        "x": Search.uniform(-2, 3),
        "size": Search.choice([16, 32, 64, None]),
        "layers": Search.int(1, 9, 3),
        "width": Search.logint(1, 512),
        "drop": Search.quniform(0.1, 0.75, 0.2),
        "noise": Search.normal(1, 2),
        "scale": Search.lognormal(0, 1),
    }
)
THEIRS = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "x": FloatDistribution(-2, 3),
    "size": CategoricalDistribution([16, 32, 64, None]),
    "layers": IntDistribution(1, 7, step=3),
    "width": IntDistribution(1, 512, log=True),
    "drop": FloatDistribution(0.1, 0.7, step=0.2),
    "noise": FloatDistribution(0, 1),
    "scale": FloatDistribution(0, 1),
}


def loss(point: dict[str, Any]) -> float:
    return float(
        (point["x"] - 1) ** 2 + abs(math.log(point["lr"]) + 6) + point["layers"] / 3 + (point["size"] or 8) / 64
    )


def typed(params: dict[str, Any]) -> dict[str, Any]:
    """Optuna's parameters as ours."""
    quantile = lambda u: NormalDist().inv_cdf(min(max(u, 2**-20), 1 - 2**-20))  # noqa: E731
    return params | {"noise": 1 + 2 * quantile(params["noise"]), "scale": math.exp(quantile(params["scale"]))}


def theirs(sampler: Any, objectives: int, trials: int) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "maximize"][:objectives], sampler=sampler)
    points = []
    for _ in range(trials):
        trial = study.ask(THEIRS)
        points.append(typed(trial.params))
        study.tell(trial, [loss(trial.params), trial.params["x"]][:objectives])
    return points


def ours(algorithm: Algorithm, objectives: int, trials: int) -> list[dict[str, Any]]:
    sampler = Sampler(SPACE, [Objective("loss"), Objective("x", "maximize")][:objectives], algorithm)
    points = []
    for number in range(trials):
        point = sampler.ask(number)
        assert point is not None
        points.append(point)
        sampler.tell(number, {"loss": loss(point), "x": point["x"]}, "complete")  # type: ignore[dict-item]
    return points


def experimental(cls: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**options)


S = optuna.samplers


@pytest.mark.parametrize(
    ("algorithm", "make", "objectives", "trials"),
    [
        (RandomSearch(3), lambda: S.RandomSampler(seed=3), 1, 40),
        (TPE(3), lambda: S.TPESampler(seed=3), 1, 40),
        (TPE(3, multivariate=False), lambda: S.TPESampler(seed=3, multivariate=False), 1, 30),
        (TPE(3, 4, 9), lambda: S.TPESampler(seed=3, n_startup_trials=4, n_ei_candidates=9), 1, 30),
        (TPE(3, group=True), lambda: experimental(S.TPESampler, seed=3, multivariate=True, group=True), 1, 30),
        (TPE(3), lambda: S.TPESampler(seed=3), 2, 30),
        (CmaEs(3), lambda: S.CmaEsSampler(seed=3, warn_independent_sampling=False), 1, 60),
        (CmaEs(3, with_margin=True), lambda: experimental(S.CmaEsSampler, seed=3, with_margin=True), 1, 30),
        (CmaEs(3, popsize=4), lambda: S.CmaEsSampler(seed=3, popsize=4, warn_independent_sampling=False), 1, 30),
        (CmaEs(3, use_separable_cma=True), lambda: experimental(S.CmaEsSampler, seed=3, use_separable_cma=True), 1, 30),
        (CmaEs(3, lr_adapt=True), lambda: experimental(S.CmaEsSampler, seed=3, lr_adapt=True), 1, 30),
        (NSGAII(3, population_size=6), lambda: S.NSGAIISampler(seed=3, population_size=6), 1, 40),
        (NSGAII(3, population_size=6), lambda: S.NSGAIISampler(seed=3, population_size=6), 2, 40),
        (Sobol(3), lambda: experimental(S.QMCSampler, seed=3), 1, 30),
        (Sobol(3, scramble=True), lambda: experimental(S.QMCSampler, seed=3, scramble=True), 2, 30),
    ],
    ids=repr,
)  # fmt: skip
def test_parameters_are_optunas(algorithm: Algorithm, make: Any, objectives: int, trials: int) -> None:
    expected = theirs(make(), objectives, trials)
    got = ours(algorithm, objectives, trials)
    for mine, their in zip(got, expected, strict=True):
        assert list(mine) == list(their)
        for name, value in mine.items():
            assert type(value) is type(their[name])
            # The quantised ones are decimal here, which differs in the last bit.
            assert value == (pytest.approx(their[name], rel=1e-12) if isinstance(value, float) else their[name])


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
def test_parameters_of_the_gaussian_process_are_optunas(deterministic: bool) -> None:
    pytest.importorskip("torch")
    options = {"n_startup_trials": 2, "deterministic_objective": deterministic}
    space = SearchSpace({"x": Search.uniform(-2, 3), "k": Search.choice(["a", "b"])})
    sampler = Sampler(space, [Objective()], GaussianProcess(3, **options))  # type: ignore[arg-type]
    study = optuna.create_study(sampler=experimental(S.GPSampler, seed=3, **options))
    for number in range(5):
        trial = study.ask({"x": FloatDistribution(-2, 3), "k": CategoricalDistribution(["a", "b"])})
        assert sampler.ask(number) == {"x": pytest.approx(trial.params["x"], rel=1e-6), "k": trial.params["k"]}
        study.tell(trial, trial.params["x"] ** 2)
        sampler.tell(number, {"loss": trial.params["x"] ** 2}, "complete")


P = optuna.pruners


@pytest.mark.parametrize(
    ("rule", "pruner"),
    [
        (MedianStop(3, 1, 2), lambda: P.MedianPruner(3, 1, 2)),
        (ASHA(1, 2), lambda: P.SuccessiveHalvingPruner(1, 2)),
        (ASHA(), lambda: P.SuccessiveHalvingPruner()),
        (Hyperband(1, 8, 2), lambda: P.HyperbandPruner(1, 8, 2)),
        (Hyperband(), lambda: P.HyperbandPruner()),
        (Patient(None, 1), lambda: experimental(P.PatientPruner, wrapped_pruner=None, patience=1)),
        (
            Patient(MedianStop(2), 0, 0.1),
            lambda: experimental(P.PatientPruner, wrapped_pruner=P.MedianPruner(2), patience=0, min_delta=0.1),
        ),
    ],
    ids=repr,
)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_early_stopping_decides_as_optunas_pruners(rule: EarlyStopping, pruner: Any, direction: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction=direction, sampler=S.RandomSampler(seed=1), pruner=pruner(), study_name="study"
    )
    mine = Sampler(
        SearchSpace({"x": Search.uniform(0, 1)}), [Objective("loss", direction)], RandomSearch(1), rule, name="study"
    )
    ends = []
    for number in range(30):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        point = mine.ask(number)
        assert point == trial.params
        for step in range(8):
            value = math.sin(step * 7 * trial.params["x"]) + trial.params["x"]
            trial.report(value, step)
            mine.report(number, step, value)
            prunes = trial.should_prune()
            assert mine.should_prune(number) == prunes
            if prunes:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                assert mine.tell(number, None, "pruned") == "pruned"
                ends.append(step)
                break
        else:
            study.tell(trial, value)
            mine.tell(number, {"loss": value}, "complete")
    assert ends


def test_optuna_says_nothing_on_our_account() -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    logging.getLogger("optuna").addHandler(handler)
    try:
        conditional = SearchSpace({"k": Search.choice([1, 2]), "x": Search.uniform(0, 1).when("k", 1)})
        for algorithm in (RandomSearch(), TPE(group=True), CmaEs(with_margin=True), Sobol(scramble=True), NSGAII()):
            sampler = Sampler(conditional, [Objective()], algorithm, Patient(MedianStop()))
            for number in range(14):
                sampler.ask(number)
                if number % 3:
                    sampler.report(number, 0, math.nan)
                    sampler.should_prune(number)
                    sampler.tell(number, {"loss": math.inf if number % 2 else 1.0}, "complete")
        assert not heard
        optuna.create_study()
        assert heard  # Others are heard as before.
    finally:
        logging.getLogger("optuna").removeHandler(handler)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
