"""Early stopping rules as values."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import optuna
import pytest

from kfasync.errors import InvalidSpecError
from kfasync.optimizer import ASHA, EarlyStopping, Hyperband, MedianStop, Patient


@pytest.mark.parametrize(
    "rule",
    [
        MedianStop(),
        ASHA(),
        ASHA(2, bootstrap_count=1),
        Hyperband(1, 9),
        Patient(),
        Patient(Patient(MedianStop(3)), 2, 0.5),
    ],
    ids=repr,
)
def test_a_rule_survives_json(rule: EarlyStopping) -> None:
    data = json.loads(json.dumps(rule.to_dict()))
    assert EarlyStopping.from_dict({**data, "newer": 1}) == rule
    assert data["rule"] == rule.rule_name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MedianStop, optuna.pruners.MedianPruner),
        (ASHA, optuna.pruners.SuccessiveHalvingPruner),
        (Hyperband, optuna.pruners.HyperbandPruner),
    ],
)
def test_options_have_optunas_names_and_defaults(ours: type[EarlyStopping], theirs: type) -> None:
    defaults = {name: p.default for name, p in inspect.signature(theirs).parameters.items()}
    assert {f.name: f.default for f in dataclasses.fields(ours)} == defaults  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "options", "named"),
    [
        (MedianStop, {"n_startup_trials": -1}, "n_startup_trials"),
        (MedianStop, {"interval_steps": 0}, "interval_steps"),
        (MedianStop, {"n_min_trials": 0}, "n_min_trials"),
        (ASHA, {"min_resource": 0}, "min_resource"),
        (ASHA, {"min_resource": "some"}, "min_resource"),
        (ASHA, {"reduction_factor": 1}, "reduction_factor"),
        (ASHA, {"bootstrap_count": 1}, "min_resource"),
        (Hyperband, {"max_resource": 2.5}, "max_resource"),
        (Hyperband, {"min_resource": 5, "max_resource": 3}, "max_resource"),
        (Hyperband, {"bootstrap_count": 1}, "max_resource"),
        (Patient, {"patience": -1}, "patience"),
        (Patient, {"min_delta": -0.1}, "min_delta"),
        (Patient, {"wrapped": "median"}, "wraps"),
        (Patient, {"wrapped": Hyperband()}, "Hyperband"),
    ],
)
def test_a_wrong_option_is_refused_by_name(rule: Any, options: Any, named: str) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        rule(**options)


def test_a_rule_of_a_newer_version_is_named() -> None:
    with pytest.raises(InvalidSpecError, match="'oracle'"):
        EarlyStopping.from_dict({"rule": "oracle"})
