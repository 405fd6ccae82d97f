"""What happens to jobs, as frozen typed events.

An event is a fact about one job, observed once: its ``key`` is the same whoever observes it, so that recording it twice
changes nothing. The journal gives each recorded event a ``cursor``; ``client.events(since=cursor)`` goes on behind it.

The state of a job is a pure function of its events (`kfasync.state.reduce`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

__all__ = [
    "Event",
    "Gap",
    "JobCompleted",
    "JobDeleted",
    "JobFailed",
    "JobPending",
    "JobRestarting",
    "JobResumed",
    "JobStarted",
    "JobSubmitted",
    "JobSuspended",
    "JobWarning",
    "MetricReported",
    "ProgressReported",
    "RankExited",
    "RankInfo",
    "StepChanged",
    "StopRequested",
    "TrialEnded",
    "TrialReported",
    "TrialStarted",
    "UnknownEvent",
    "decode",
    "encode",
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One observed fact about one job.

    Attributes:
        place: Where the job lives: a KFASYNC_HOME, a daemon, a cluster and namespace.
        job: The job's name, unique in its place.
        uid: The job's identity; a name may be used again after a delete, a uid never.
        attempt: 1 for the first run of the group, one more at each restart or resume.
        time: Unix time in seconds at which it happened, by the observer's clock.
        cursor: Position in the journal, 0 until recorded. Not part of the fact.
    """

    place: str
    job: str
    uid: str
    attempt: int = 1
    time: float = 0.0
    cursor: int = field(default=0, compare=False)

    _registry: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Event._registry[cls.__name__] = cls

    @property
    def key(self) -> str:
        """Identity of the fact within its job; recording it a second time is a no-op."""
        return f"{self.attempt}/{type(self).__name__}"


@dataclass(frozen=True, kw_only=True)
class JobSubmitted(Event):
    """The intent to run a job was recorded; nothing has been created yet. Status Created, reason Queued.

    Attributes:
        spec: The job's spec as `JobSpec.to_dict` gives it. It never holds a secret's value.
        digest: The spec's digest; the same name with the same digest is the same job.
    """

    spec: Mapping[str, Any]
    digest: str

    @property
    def key(self) -> str:
        return "JobSubmitted"


@dataclass(frozen=True, kw_only=True)
class JobPending(Event):
    """Still Created, and why: ``Queued``, ``Pending``, ``Installing``, ``ImagePull``, ``Unschedulable``, …

    Attributes:
        reason: The typed reason.
        message: What a person needs to know or do.
        ordinal: Tells apart repeated messages of one attempt, such as an installer's progress.
    """

    reason: str
    message: str = ""
    ordinal: int = 0

    @property
    def key(self) -> str:
        return f"{self.attempt}/pending/{self.reason}/{self.ordinal}"


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """One process of a job: who it is, and on a local place, which process it is.

    Attributes:
        node: Node index, from 0.
        rank: Global rank, from 0.
        local_rank: Rank within the node.
        pid: Process id, where that means something.
        start_time: Kernel start time of the process in clock ticks since boot; with ``pid`` and ``boot_id`` its
            identity.
        boot_id: Which boot of the machine ``start_time`` belongs to.
        host: Container or pod name, where there is one.
        devices: GPU slots that were handed to it.
    """

    node: int
    rank: int
    local_rank: int = 0
    pid: int | None = None
    start_time: int | None = None
    boot_id: str = ""
    host: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JobStarted(Event):
    """Every rank of this attempt runs. Status Running."""

    ranks: tuple[RankInfo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StepChanged(Event):
    """A step of the job (``node-0``, ``dataset-initializer``, …) changed: Pending, Running, Succeeded or Failed."""

    step: str
    status: str
    host: str = ""
    message: str = ""

    @property
    def key(self) -> str:
        return f"{self.attempt}/step/{self.step}/{self.status}"


@dataclass(frozen=True, kw_only=True)
class RankExited(Event):
    """One rank ended.

    Attributes:
        exit_code: Exit code; negative when a signal ended it; None when nobody can know.
    """

    node: int
    rank: int
    exit_code: int | None = None
    message: str = ""

    @property
    def key(self) -> str:
        return f"{self.attempt}/rank/{self.rank}/exited"


@dataclass(frozen=True, kw_only=True)
class StopRequested(Event):
    """Somebody decided that the job shall stop: ``cancel``, ``suspend``, ``deadline``, ``prune``."""

    cause: str
    message: str = ""

    @property
    def key(self) -> str:
        return f"{self.attempt}/stop/{self.cause}"


@dataclass(frozen=True, kw_only=True)
class JobSuspended(Event):
    """All ranks stopped on request and their resources are free. Status Suspended."""


@dataclass(frozen=True, kw_only=True)
class JobResumed(Event):
    """A suspended job is wanted again; ``attempt`` is the new attempt. Status Created, reason Queued."""


@dataclass(frozen=True, kw_only=True)
class JobRestarting(Event):
    """An attempt failed and the restart policy allows another; ``attempt`` is the new one. Status Created."""

    message: str = ""
    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class JobCompleted(Event):
    """The job ended well. Status Complete, for ever. A study says by which rule it ended: ``AllTrials``, ``Goal``, …"""

    message: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        return "end"


@dataclass(frozen=True, kw_only=True)
class JobFailed(Event):
    """The job ended badly. Status Failed, for ever. The fields are those of `kfasync.errors.JobFailedError`."""

    reason: str
    message: str = ""
    exit_code: int | None = None
    node: int | None = None
    rank: int | None = None
    exception: str = ""
    traceback: str = ""
    last_lines: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return "end"


@dataclass(frozen=True, kw_only=True)
class JobDeleted(Event):
    """The job and what belonged to it are gone; its name is free again."""

    @property
    def key(self) -> str:
        return "deleted"


@dataclass(frozen=True, kw_only=True)
class MetricReported(Event):
    """Numbers that a rank reported.

    Attributes:
        values: Metric name to value; nan and inf are values like any other.
        step: The training step or epoch they belong to, where one was given.
        source: ``report`` (kfasync.report), ``stdout`` (name=value) or ``protocol`` (Kubeflow's progress protocol).
        position: Place in the rank's stream; with source and rank, the identity of the report.
    """

    node: int = 0
    rank: int = 0
    values: Mapping[str, float]
    step: float | None = None
    source: str = "report"
    position: int = 0

    @property
    def key(self) -> str:
        return f"{self.attempt}/rank/{self.rank}/{self.source}/{self.position}"


@dataclass(frozen=True, kw_only=True)
class ProgressReported(Event):
    """How far a rank says it is.

    Attributes:
        percent: 0 to 100, or None when it only gave an estimate or a message.
        remaining: Estimated seconds to the end.
    """

    node: int = 0
    rank: int = 0
    percent: float | None = None
    remaining: float | None = None
    message: str = ""
    source: str = "report"
    position: int = 0

    @property
    def key(self) -> str:
        return f"{self.attempt}/rank/{self.rank}/progress-{self.source}/{self.position}"


@dataclass(frozen=True, kw_only=True)
class JobWarning(Event):
    """Something the user should know that does not change the job's status, such as a missing GPU."""

    reason: str
    message: str

    @property
    def key(self) -> str:
        return f"{self.attempt}/warning/{self.reason}"


@dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A study, which is the event's job, decided on a trial; the trial's own job is created after this was recorded.

    ``attempt`` is that of the study's driver: what a driver tells after another one took over is refused.

    Attributes:
        number: The trial's number in its study, from 0.
        trial: The name of the trial's job.
        parameters: Hyperparameters by name: numbers, strings, bools or None.
        retry: How often it was started before, for reasons that were not its own.
        notes: What the algorithm noted on the trial and needs again after a restart of the driver, as JSON values.
        parent: Name of the job whose checkpoint the trial starts with a copy of; empty for one that starts from
            nothing.
    """

    number: int
    trial: str
    parameters: Mapping[str, Any]
    retry: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""

    @property
    def key(self) -> str:
        return f"trial/{self.number}/started/{self.retry}"


@dataclass(frozen=True, kw_only=True)
class TrialReported(Event):
    """What a trial has achieved so far, where the trial is no job whose own reports tell it.

    Attributes:
        number: The trial's number in its study.
        step: The training step that it belongs to.
        value: The first objective there; nan and inf are values like any other.
        position: How many reports of this study came before; with the attempt, the identity of the report.
    """

    number: int
    step: float
    value: float
    position: int

    @property
    def key(self) -> str:
        return f"{self.attempt}/report/{self.position}"


@dataclass(frozen=True, kw_only=True)
class TrialEnded(Event):
    """A trial of a study has ended.

    Attributes:
        number: The trial's number in its study.
        outcome: ``complete``, ``failed`` or ``pruned``.
        metrics: For each metric its smallest, largest and latest value.
        reason: Typed reason of a failure.
        message: What a person needs to know.
        notes: What the early stopping rule noted on the trial, beside the notes at its start.
    """

    number: int
    outcome: str
    metrics: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"trial/{self.number}/ended"


@dataclass(frozen=True, kw_only=True)
class Gap(Event):
    """Something happened that nobody saw: events of a source, or a part of a log that went past its limit.

    ``job`` is empty when the gap concerns the whole place.
    """

    what: str
    message: str = ""
    ordinal: int = 0

    @property
    def key(self) -> str:
        return f"{self.attempt}/gap/{self.what}/{self.ordinal}"


@dataclass(frozen=True, kw_only=True)
class UnknownEvent(Event):
    """An event that a newer version of kfasync recorded; this version keeps it but can't interpret it."""

    type_name: str
    raw: Mapping[str, Any]
    raw_key: str = ""

    @property
    def key(self) -> str:
        return self.raw_key

    @classmethod
    def wrap(cls, type_name: str, raw: Mapping[str, Any], **header: Any) -> Self:
        return cls(type_name=type_name, raw=raw, **header)


_HEADER = ("place", "job", "uid", "attempt", "time", "cursor")
# JSON has no nan or inf; these strings stand for them in metric values only, where a string can't occur otherwise.
_NONFINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def _plain(value: Any) -> Any:
    if isinstance(value, RankInfo):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return repr(value)
    return value


def _tagged(value: Any) -> Any:
    """A parameter may be a number or a string, so that nan needs another form than the string."""
    return value if _plain(value) is value else {"float": _plain(value)}


def _untagged(value: Any) -> Any:
    return float(value["float"]) if isinstance(value, dict) else value


def encode(event: Event) -> tuple[str, dict[str, Any]]:
    """Turn an event into its type's name and a body of plain JSON values (without the header fields)."""
    if isinstance(event, UnknownEvent):
        return event.type_name, dict(event.raw)
    body = {f.name: _plain(getattr(event, f.name)) for f in dataclasses.fields(event) if f.name not in _HEADER}
    if isinstance(event, TrialStarted):
        # In a list: the journal sorts the keys of objects, and people want their parameters in their own order.
        body["parameters"] = [[k, _tagged(v)] for k, v in event.parameters.items()]
    return type(event).__name__, body


def decode(type_name: str, body: Mapping[str, Any], **header: Any) -> Event:
    """Turn a stored event back; unknown types become `UnknownEvent`, unknown fields are dropped.

    Args:
        type_name: What `encode` gave.
        body: What `encode` gave.
        header: place, job, uid, attempt, time and cursor.
    """
    cls = Event._registry.get(type_name)
    if cls is None:
        return UnknownEvent.wrap(type_name, body, **header)
    known = {f.name for f in dataclasses.fields(cls)}
    fields = {k: v for k, v in body.items() if k in known}
    if cls is JobStarted:
        infos = {f.name for f in dataclasses.fields(RankInfo)}
        ranks = [{k: v for k, v in rank.items() if k in infos} for rank in fields.get("ranks", ())]
        fields["ranks"] = tuple(RankInfo(**rank | {"devices": tuple(rank.get("devices", ()))}) for rank in ranks)
    elif cls is MetricReported:
        fields["values"] = {k: _NONFINITE.get(v, v) for k, v in fields.get("values", {}).items()}
    elif cls is TrialReported:
        fields["value"] = _NONFINITE.get(fields["value"], fields["value"])
    elif cls is TrialStarted:
        fields["parameters"] = {k: _untagged(v) for k, v in fields.get("parameters", ())}
    elif cls is TrialEnded:
        metrics = fields.get("metrics", {}).items()
        fields["metrics"] = {k: tuple(_NONFINITE.get(v, v) for v in values) for k, values in metrics}
    elif cls is JobFailed:
        fields["last_lines"] = tuple(fields.get("last_lines", ()))
    return cls(**fields, **header)
