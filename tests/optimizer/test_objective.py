"""Objectives and the number of trials."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.optimizer import Direction, Objective, TrialConfig


class Theirs(enum.Enum):
    MAXIMIZE = "maximize"


def test_an_objective_of_an_older_version_is_rank_zeros() -> None:
    assert Objective.from_dict({"metric": "loss", "direction": "minimize"}).rank == 0
    assert Objective.from_dict(Objective(rank=None).to_dict()).rank is None


@pytest.mark.parametrize("direction", ["maximize", Direction.MAXIMIZE, Theirs.MAXIMIZE])
def test_a_direction_is_a_text_or_a_member(direction: Any) -> None:
    objective = Objective("accuracy", direction)
    assert objective.direction is Direction.MAXIMIZE
    assert objective.direction == "maximize"
    assert Objective.from_dict(json.loads(json.dumps(objective.to_dict()))) == objective


def test_defaults_are_those_of_kubeflow() -> None:
    assert Objective() == Objective("loss", "minimize", rank=0)
    assert TrialConfig() == TrialConfig(10, 1, None)


@pytest.mark.parametrize("fields", [{"metric": ""}, {"metric": None}, {"direction": "up"}, {"direction": None},
                                    {"rank": -1}, {"rank": "all"}, {"rank": True}])  # fmt: skip
def test_a_wrong_objective_is_refused(fields: Any) -> None:
    with pytest.raises(InvalidSpecError):
        Objective(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_trials": 0}, "num_trials"),
        ({"num_trials": True}, "num_trials"),
        ({"num_trials": 2.5}, "num_trials"),
        ({"num_trials": "3"}, "num_trials"),
        ({"parallel_trials": 0}, "parallel_trials"),
        ({"num_trials": 3, "parallel_trials": 4}, "parallel_trials"),
        ({"max_failed_trials": -1}, "max_failed_trials"),
        ({"max_failed_trials": 1.5}, "max_failed_trials"),
    ],
)
def test_a_wrong_number_is_refused_by_name(fields: Any, named: str) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        TrialConfig(**fields)


def test_a_config_survives_json() -> None:
    config = TrialConfig(5, 5, 0)
    assert TrialConfig.from_dict({**json.loads(json.dumps(config.to_dict())), "newer": 1}) == config
