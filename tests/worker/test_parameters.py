"""What training code reads of its trial's hyperparameters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kfasync.worker import get_hyperparameters


def test_outside_of_a_trial_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://elsewhere")
    assert get_hyperparameters() == {}


def test_names_and_types_are_those_of_the_search_space(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"Lr.base": 1e-3, "size": 32, "kind": "32", "nesterov": True, "seed": None, "edge": float("inf")}
    monkeypatch.setenv("KFASYNC_PARAMETERS", json.dumps(given))
    monkeypatch.setenv("KUBEFLOW_TRAINER_OPT_SIZE", "32")
    assert get_hyperparameters() == given


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.0021", 0.0021),
        ("1e-3", 0.001),
        ("32", 32),
        ("true", True),
        ("null", None),
        ("adam", "adam"),
        ("", ""),
        ("[1, 2]", "[1, 2]"),
        ('"quoted"', '"quoted"'),
    ],
)
def test_of_kubeflows_variables_alone_names_are_small_and_numbers_are_numbers(
    monkeypatch: pytest.MonkeyPatch, text: str, value: Any
) -> None:
    monkeypatch.setenv("KUBEFLOW_TRAINER_OPT_LEARNING_RATE", text)
    told = get_hyperparameters()
    assert told == {"learning_rate": value}
    assert type(told["learning_rate"]) is type(value)
