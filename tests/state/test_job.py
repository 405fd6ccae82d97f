"""The values of a job's state and their JSON form."""

from __future__ import annotations

import json

from kfasync.state import Failure, JobState, MetricSummary, Progress, RankState, Status, StepState

FULL = JobState(
    place="here",
    name="demo",
    uid="u1",
    status=Status.FAILED,
    reason="Error",
    message="ünïcode\n",
    attempt=3,
    spec={"name": "demo", "env": {"A": "$(x)"}},
    digest="d",
    created=1.5,
    started=2.0,
    finished=3.0,
    resumed=2.5,
    ranks=(RankState(node=0, rank=0, status="Failed", pid=4, start_time=5, boot_id="b", devices=("0",), exit_code=-9),),
    steps={"node-0": StepState(status="Failed", host="h")},
    stop="cancel",
    stop_message="enough",
    failure=Failure(exit_code=-9, rank=0, node=0, exception="E: x", traceback="t", last_lines=("a", "b")),
    metrics={"loss": MetricSummary(float("-inf"), float("inf"), 0.5)},
    progress=Progress(percent=50.0, remaining=1.0, message="half"),
    warnings=(("NoGpu", "none here"),),
    restarts=2,
    deleted=True,
    cursor=9,
)


def test_a_status_equals_and_prints_as_kubeflows_text() -> None:
    assert Status.COMPLETE == "Complete"
    assert f"{Status.COMPLETE}" == "Complete"


def test_a_state_comes_back_from_json() -> None:
    assert JobState.from_dict(json.loads(json.dumps(FULL.to_dict(), allow_nan=False))) == FULL


def test_fields_of_a_newer_version_are_ignored() -> None:
    data = FULL.to_dict() | {"mood": "fine"}
    data["ranks"][0]["colour"] = "red"
    data["failure"]["blame"] = "x"
    assert JobState.from_dict(data) == FULL


def test_what_has_its_default_is_not_written() -> None:
    state = JobState(place="here", name="demo", uid="u1")
    assert state.to_dict() == {"place": "here", "name": "demo", "uid": "u1", "spec": {}}


def test_a_job_is_terminal_when_it_has_ended() -> None:
    assert FULL.terminal
    assert not JobState(place="here", name="demo", uid="u1", status=Status.SUSPENDED).terminal
