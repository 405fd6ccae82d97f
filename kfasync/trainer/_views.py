"""From the engine's state to what a client shows: jobs, steps and events in Kubeflow's form. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kfasync import events as facts
from kfasync.backends.base import LogLine
from kfasync.jobs import Event, JobSpec, Runtime, RuntimeKind, RuntimeTrainer, Step, TrainerType, TrainJob
from kfasync.jobs._runtimes import NODE, UNKNOWN
from kfasync.state import JobState, RankState, Status

__all__ = ["event_view", "job_view", "line_view"]


def job_view(state: JobState, runtimes: Sequence[Runtime]) -> TrainJob:
    """A job as `get_job` shows it.

    Args:
        state: What is true of it.
        runtimes: The place's runtimes; a job whose runtime is gone keeps its name.
    """
    spec = state.job_spec
    runtime = next((r for r in runtimes if r.name == spec.runtime), None)
    return TrainJob(
        name=state.name,
        runtime=runtime or _gone(spec),
        steps=_steps(state, spec),
        num_nodes=spec.num_nodes,
        creation_timestamp=_when(state.created),
        status=state.status.value,
        reason=state.reason,
        message=state.message,
        labels=dict(spec.labels),
        annotations=dict(spec.annotations),
    )


def _gone(spec: JobSpec) -> Runtime:
    trainer = RuntimeTrainer(TrainerType.CUSTOM_TRAINER, spec.framework, spec.image or UNKNOWN)
    return Runtime(name=spec.runtime, trainer=trainer, kind=RuntimeKind.CLUSTER_TRAINING_RUNTIME)


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _steps(state: JobState, spec: JobSpec) -> list[Step]:
    nodes = [_node(state, spec, index) for index in range(spec.num_nodes)]
    known = {step.name for step in nodes}
    others = [
        Step(name=name, status=step.status, pod_name=step.host or f"{state.name}-{name}")
        for name, step in state.steps.items()
        if name not in known
    ]
    # Initializers run first.
    return others + nodes


def _node(state: JobState, spec: JobSpec, index: int) -> Step:
    name = f"{NODE}-{index}"
    ranks = [rank for rank in state.ranks if rank.node == index]
    told = state.steps.get(name)
    host = (told.host if told else "") or next((rank.host for rank in ranks if rank.host), "")
    device, count = _devices(spec, ranks)
    return Step(
        name=name,
        status=told.status if told else _node_status(state, ranks),
        pod_name=host or f"{state.name}-{name}",
        device=device,
        device_count=count,
    )


def _node_status(state: JobState, ranks: Sequence[RankState]) -> str:
    statuses = {rank.status for rank in ranks}
    if "Failed" in statuses or (state.status is Status.FAILED and statuses != {"Succeeded"}):
        return "Failed"
    if state.status is Status.COMPLETE or statuses == {"Succeeded"}:
        return "Succeeded"
    return "Running" if "Running" in statuses else "Pending"


def _devices(spec: JobSpec, ranks: Sequence[RankState]) -> tuple[str, str]:
    given = {device for rank in ranks for device in rank.devices}
    if given or spec.resources.gpus:
        return "gpu", str(len(given) or spec.resources.gpus)
    if spec.resources.cpu is not None:
        return "cpu", f"{spec.resources.cpu:g}"
    return UNKNOWN, UNKNOWN


def _exit(event: facts.RankExited) -> str:
    if event.exit_code is None:
        how = "ended; nobody knows how"
    elif event.exit_code < 0:
        how = f"was ended by signal {-event.exit_code}"
    else:
        how = f"exited with code {event.exit_code}"
    return f"rank {event.rank} {how}" + (f": {event.message}" if event.message else "")


def _failure(event: facts.JobFailed) -> str:
    where = "" if event.rank is None else f"rank {event.rank} on node {event.node}"
    return ": ".join(text for text in (where, event.message or event.exception) if text)


# Reason and message of each fact that concerns a person; metrics and progress have methods of their own.
_TELL: Mapping[type[facts.Event], Callable[[Any], tuple[str, str]]] = {
    facts.JobSubmitted: lambda e: ("Created", "the job was submitted"),
    facts.JobPending: lambda e: (e.reason, e.message),
    facts.JobStarted: lambda e: ("Running", f"attempt {e.attempt}: all {len(e.ranks)} ranks run"),
    facts.StepChanged: lambda e: (e.status, e.message),
    facts.RankExited: lambda e: ("Exited", _exit(e)),
    facts.StopRequested: lambda e: ("StopRequested", e.message or f"because of {e.cause}"),
    facts.JobSuspended: lambda e: ("Suspended", "all ranks stopped on request"),
    facts.JobResumed: lambda e: ("Resumed", f"attempt {e.attempt} is queued"),
    facts.JobRestarting: lambda e: ("Restarting", e.message or f"attempt {e.attempt} starts in {e.delay:g} s"),
    facts.JobCompleted: lambda e: ("Complete", e.message or "the job ended well"),
    facts.JobFailed: lambda e: (e.reason, _failure(e)),
    facts.JobDeleted: lambda e: ("Deleted", "the job was deleted"),
    facts.JobWarning: lambda e: (e.reason, e.message),
    facts.TrialStarted: lambda e: ("TrialStarted", f"trial {e.number} is {e.trial}, with {dict(e.parameters)}"),
    facts.TrialEnded: lambda e: (
        f"Trial{e.outcome.capitalize()}",
        f"trial {e.number}" + (f": {e.message}" if e.message else ""),
    ),
    facts.Gap: lambda e: ("Gap", e.message or f"{e.what}: something happened that nobody saw"),
}


def event_view(event: facts.Event) -> Event | None:
    """An event as `get_job_events` shows it; None for what is no news of the job's course, such as a metric."""
    tell = _TELL.get(type(event))
    if tell is None:
        return None
    reason, message = tell(event)
    kind, name = "TrainJob", event.job
    if isinstance(event, facts.StepChanged):
        kind, name = "Node", event.step
    elif isinstance(event, facts.RankExited):
        kind, name = "Node", f"{NODE}-{event.node}"
    return Event(
        involved_object_kind=kind,
        involved_object_name=name,
        message=message,
        reason=reason,
        event_time=_when(event.time),
    )


def line_view(line: LogLine, *, merged: bool) -> str:
    """A line of output as `get_job_logs` gives it; merged nodes are told apart by a prefix."""
    return f"[{NODE}-{line.node}] {line.text}" if merged else line.text
