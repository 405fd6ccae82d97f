"""What a job is at one moment: plain, frozen values and their JSON form. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar

from kfasync.jobs import JobSpec
from kfasync.state._metrics import MetricSummary

__all__ = ["TERMINAL", "Failure", "JobState", "Progress", "RankState", "Status", "StepState"]


class Status(StrEnum):
    """Kubeflow's statuses of a job. A member equals its text."""

    CREATED = "Created"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


TERMINAL = frozenset({Status.COMPLETE, Status.FAILED})


@dataclass(frozen=True, kw_only=True)
class RankState:
    """One process of the present attempt.

    Attributes:
        node: Node index, from 0.
        rank: Global rank, from 0.
        local_rank: Rank within the node.
        status: ``Pending``, ``Running``, ``Succeeded`` or ``Failed``.
        pid: Process id, where that means something.
        start_time: Kernel start time in clock ticks since boot; with ``pid`` and ``boot_id`` the process's identity.
        boot_id: Which boot of the machine that was.
        host: Container or pod name, where there is one.
        devices: GPU slots that were handed to it.
        exit_code: Exit code; negative for a signal; None while it runs or when nobody can know.
    """

    node: int
    rank: int
    local_rank: int = 0
    status: str = "Pending"
    pid: int | None = None
    start_time: int | None = None
    boot_id: str = ""
    host: str = ""
    devices: tuple[str, ...] = ()
    exit_code: int | None = None


@dataclass(frozen=True, kw_only=True)
class StepState:
    """One step (``node-0``, ``dataset-initializer``, …): Pending, Running, Succeeded or Failed."""

    status: str
    host: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job failed, as far as it is known; the fields are those of `kfasync.errors.JobFailedError`."""

    exit_code: int | None = None
    node: int | None = None
    rank: int | None = None
    exception: str = ""
    traceback: str = ""
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the job says it is: percent (0 to 100), estimated seconds that remain, a message."""

    percent: float | None = None
    remaining: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Everything that a job's events say about it.

    Attributes:
        place: Where the job lives.
        name: Its name, unique in the place until it is deleted.
        uid: Its identity.
        status: Kubeflow's status.
        reason: Typed reason of the status: ``Queued``, ``ImagePull``, ``OOMKilled``, ``Cancelled``, …; empty for a job
            that simply runs or ended well.
        message: What a person needs to know.
        attempt: 1 for the first run of the group, one more at each restart or resume.
        spec: The spec as `JobSpec.to_dict` gives it.
        digest: The spec's digest.
        created: Unix time of the submit, in seconds.
        started: Unix time at which it first ran, or None.
        finished: Unix time of its end, or None.
        resumed: Unix time of the last resume, or None; ``active_deadline`` counts from here, else from ``created``.
        ranks: The processes of the present attempt, by rank.
        steps: The steps of the present attempt, by name.
        stop: Cause of the pending or last StopRequested (``cancel``, ``suspend``, ``deadline``, …), or None.
        stop_message: Its message.
        failure: Details of the failure, once Failed.
        metrics: Summary by metric name, over all attempts.
        progress: The last progress reported in this attempt.
        warnings: Pairs of reason and message.
        restarts: How often the restart policy started it again.
        deleted: Whether it is gone and its name free.
        cursor: Position in the journal of the last event folded in.
    """

    place: str
    name: str
    uid: str
    status: Status = Status.CREATED
    reason: str = ""
    message: str = ""
    attempt: int = 1
    spec: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    resumed: float | None = None
    ranks: tuple[RankState, ...] = ()
    steps: Mapping[str, StepState] = field(default_factory=dict)
    stop: str | None = None
    stop_message: str = ""
    failure: Failure | None = None
    metrics: Mapping[str, MetricSummary] = field(default_factory=dict)
    progress: Progress | None = None
    warnings: tuple[tuple[str, str], ...] = ()
    restarts: int = 0
    deleted: bool = False
    cursor: int = 0

    @property
    def terminal(self) -> bool:
        """Whether the job has ended, for ever."""
        return self.status in TERMINAL

    @cached_property
    def job_spec(self) -> JobSpec:
        """The spec as an object."""
        return JobSpec.from_dict(self.spec)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fields that have their default are left out: a field added later changes no old state."""
        return {"spec": _plain(self.spec), **self.facts()}

    def facts(self) -> dict[str, Any]:
        """`to_dict` without the spec, which never changes and may be large."""
        return {f.name: _plain(value) for f in _FACTS if (value := getattr(self, f.name)) != _DEFAULTS[f.name]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobState:
        """The state that `to_dict` wrote; unknown keys (of a newer version) are ignored.

        Example:
            >>> state = JobState(place="p", name="demo", uid="u", attempt=2)
            >>> JobState.from_dict(state.to_dict()) == state
            True
        """
        return _build(cls, {k: _REVIVE[k](v) if k in _REVIVE else v for k, v in data.items()})


T = TypeVar("T")


def _build(cls: type[T], data: Mapping[str, Any]) -> T:
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: v for k, v in data.items() if k in known})


_FACTS = tuple(f for f in dataclasses.fields(JobState) if f.name != "spec")
_DEFAULTS = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in _FACTS}
_REVIVE: Mapping[str, Callable[[Any], Any]] = {
    "status": Status,
    "ranks": lambda ranks: tuple(_build(RankState, r | {"devices": tuple(r.get("devices", ()))}) for r in ranks),
    "steps": lambda steps: {name: _build(StepState, step) for name, step in steps.items()},
    "failure": lambda failure: _build(Failure, failure | {"last_lines": tuple(failure.get("last_lines", ()))}),
    # JSON has no nan and no infinities: they are written as the text that float() reads.
    "metrics": lambda metrics: {name: MetricSummary(*map(float, values)) for name, values in metrics.items()},
    "progress": lambda progress: _build(Progress, {k: v if k == "message" else float(v) for k, v in progress.items()}),
    "warnings": lambda warnings: tuple((reason, message) for reason, message in warnings),
}


def _plain(value: Any) -> Any:
    match value:
        case Status():
            return value.value
        case float():
            return value if value - value == 0 else repr(value)
        case MetricSummary():
            return [_plain(value.min), _plain(value.max), _plain(value.latest)]
        case RankState() | StepState() | Failure() | Progress():
            return {
                f.name: _plain(inner)
                for f in dataclasses.fields(value)
                if (inner := getattr(value, f.name)) != f.default
            }
        case tuple() | list():
            return [_plain(inner) for inner in value]
        case Mapping():
            return {key: _plain(inner) for key, inner in value.items()}
    return value
