"""What a client shows of jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kfasync import events as facts
from kfasync.backends.base import LogLine
from kfasync.jobs import JobSpec, Resources, builtin_runtimes
from kfasync.state import JobState, RankState, Status, StepState
from kfasync.trainer._views import _TELL, event_view, job_view, line_view

_SPEC = JobSpec(name="demo", num_nodes=2, resources=Resources(cpu=2), labels={"a": "1"}, annotations={"b": "2"})
_STATE = JobState(place="p", name="demo", uid="u", spec=_SPEC.to_dict(), created=1_700_000_000.0, reason="Queued")
_HEADER: dict[str, Any] = {"place": "p", "job": "demo", "uid": "u", "time": 1_700_000_000.0}


def _steps(state: JobState) -> list[tuple[str, str | None, str, str, str]]:
    view = job_view(state, builtin_runtimes())
    return [(s.name, s.status, s.pod_name, s.device, s.device_count) for s in view.steps]


def test_a_queued_job_shows_what_was_asked_for() -> None:
    view = job_view(_STATE, builtin_runtimes())
    assert (view.name, view.status, view.reason, view.num_nodes) == ("demo", "Created", "Queued", 2)
    assert view.runtime.name == "torch-distributed"
    assert view.creation_timestamp == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (view.labels, view.annotations) == ({"a": "1"}, {"b": "2"})
    assert _steps(_STATE) == [
        ("node-0", "Pending", "demo-node-0", "cpu", "2"),
        ("node-1", "Pending", "demo-node-1", "cpu", "2"),
    ]


def test_a_job_whose_runtime_is_gone_keeps_its_name() -> None:
    view = job_view(replace(_STATE, spec=_SPEC.to_dict() | {"runtime": "gone", "framework": "jax"}), builtin_runtimes())
    assert (view.runtime.name, view.runtime.trainer.framework) == ("gone", "jax")


def _ranks(*statuses: str) -> tuple[RankState, ...]:
    return tuple(RankState(node=n // 2, rank=n, local_rank=n % 2, status=s) for n, s in enumerate(statuses))


@pytest.mark.parametrize(
    ("status", "ranks", "nodes"),
    [
        (Status.RUNNING, ("Running",) * 4, ["Running", "Running"]),
        (Status.RUNNING, ("Succeeded", "Succeeded", "Running", "Succeeded"), ["Succeeded", "Running"]),
        (Status.RUNNING, ("Running", "Running", "Failed", "Running"), ["Running", "Failed"]),
        (Status.FAILED, ("Succeeded", "Succeeded", "Failed", "Failed"), ["Succeeded", "Failed"]),
        (Status.COMPLETE, ("Succeeded",) * 4, ["Succeeded", "Succeeded"]),
        (Status.COMPLETE, (), ["Succeeded", "Succeeded"]),
        (Status.FAILED, (), ["Failed", "Failed"]),
    ],
)
def test_a_node_is_what_its_ranks_are(status: Status, ranks: tuple[str, ...], nodes: list[str]) -> None:
    state = replace(_STATE, status=status, ranks=_ranks(*ranks))
    assert [step[1] for step in _steps(state)] == nodes


def test_devices_that_were_given_count_more_than_those_asked_for() -> None:
    spec = replace(_SPEC, num_nodes=1, resources=Resources(gpus=4))
    assert _steps(replace(_STATE, spec=spec.to_dict()))[0][3:] == ("gpu", "4")
    ranks = (RankState(node=0, rank=0, devices=("a", "b")),)
    assert _steps(replace(_STATE, spec=spec.to_dict(), ranks=ranks))[0][3:] == ("gpu", "2")
    assert _steps(replace(_STATE, spec=JobSpec(name="demo").to_dict()))[0][3:] == ("Unknown", "Unknown")


def test_initializers_come_first_and_hosts_are_named() -> None:
    steps = {"node-1": StepState(status="Running", host="pod-b"), "dataset-initializer": StepState(status="Succeeded")}
    ranks = (RankState(node=0, rank=0, status="Running", host="pod-a"),)
    assert [step[:3] for step in _steps(replace(_STATE, steps=steps, ranks=ranks))] == [
        ("dataset-initializer", "Succeeded", "demo-dataset-initializer"),
        ("node-0", "Running", "pod-a"),
        ("node-1", "Running", "pod-b"),
    ]


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (facts.JobSubmitted(**_HEADER, spec={}, digest=""), ("TrainJob", "demo", "Created", "the job was submitted")),
        (
            facts.JobPending(**_HEADER, reason="ImagePull", message="pulling"),
            ("TrainJob", "demo", "ImagePull", "pulling"),
        ),
        (
            facts.RankExited(**_HEADER, node=1, rank=3, exit_code=2),
            ("Node", "node-1", "Exited", "rank 3 exited with code 2"),
        ),
        (
            facts.RankExited(**_HEADER, node=0, rank=0, exit_code=-9),
            ("Node", "node-0", "Exited", "rank 0 was ended by signal 9"),
        ),
        (facts.StepChanged(**_HEADER, step="node-0", status="Running"), ("Node", "node-0", "Running", "")),
        (facts.StopRequested(**_HEADER, cause="cancel"), ("TrainJob", "demo", "StopRequested", "because of cancel")),
        (
            facts.JobFailed(**_HEADER, reason="Error", node=0, rank=1, exception="ValueError: x"),
            ("TrainJob", "demo", "Error", "rank 1 on node 0: ValueError: x"),
        ),
        (facts.JobFailed(**_HEADER, reason="Lost", message="gone"), ("TrainJob", "demo", "Lost", "gone")),
        (facts.JobCompleted(**_HEADER), ("TrainJob", "demo", "Complete", "the job ended well")),
    ],
)
def test_events_are_told_in_words(event: facts.Event, shown: tuple[str, str, str, str]) -> None:
    view = event_view(event)
    assert view is not None
    assert (view.involved_object_kind, view.involved_object_name, view.reason, view.message) == shown
    assert view.event_time.timestamp() == 1_700_000_000.0


def test_numbers_are_no_news_of_the_course() -> None:
    assert event_view(facts.MetricReported(**_HEADER, values={"loss": 1.0})) is None
    assert event_view(facts.UnknownEvent.wrap("Later", {}, **_HEADER)) is None


def test_every_other_event_is_told() -> None:
    silent = {"MetricReported", "ProgressReported", "TrialReported", "UnknownEvent"}
    assert {kind.__name__ for kind in _TELL} == set(facts.Event._registry) - silent


def test_merged_nodes_are_told_apart() -> None:
    line = LogLine(text="hello", node=1)
    assert line_view(line, merged=True) == "[node-1] hello"
    assert line_view(line, merged=False) == "hello"
