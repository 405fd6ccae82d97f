"""How a job's state follows from its events, and which events may follow which: a table, and a pure fold.

Nothing here does I/O, looks at a clock or knows a loop. `reduce` is the only place where a job's state changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from kfasync.errors import TransitionError
from kfasync.events import (
    Event,
    Gap,
    JobCompleted,
    JobDeleted,
    JobFailed,
    JobPending,
    JobRestarting,
    JobResumed,
    JobStarted,
    JobSubmitted,
    JobSuspended,
    JobWarning,
    MetricReported,
    ProgressReported,
    RankExited,
    StepChanged,
    StopRequested,
    TrialEnded,
    TrialReported,
    TrialStarted,
    UnknownEvent,
)
from kfasync.state._job import Failure, JobState, Progress, RankState, Status, StepState
from kfasync.state._metrics import summarise

__all__ = ["is_news", "reduce"]

# A hostile job can print names without end; Kubeflow keeps 256 of one job. The state is written with every event.
_MAX_METRICS = 1000
_MAX_WARNINGS = 100


def is_news(state: JobState | None, event: Event) -> bool:
    """Whether an event can still matter to a job in this state.

    It can't when the job has ended (but for reports, warnings and its deletion), when it was deleted, when the event
    tells of an older attempt, or when it repeats or reverses what a later event of the same attempt already said:
    watchers deliver late, twice and out of order.

    Args:
        state: The job's state, None for a job that is not known.
        event: What was observed.
    """
    if state is None:
        return True
    if state.deleted or isinstance(event, JobSubmitted):
        return False
    if isinstance(event, _ALWAYS_NEWS):
        return True
    if state.terminal:
        return False
    if isinstance(event, StopRequested):
        # Never stale by attempt: a cancel that races with a restart is meant for the job. A decision to end the job is
        # not replaced by another one, but it does replace a suspend.
        return state.stop is None or (state.stop == "suspend" and event.cause != "suspend")
    if event.attempt != state.attempt:
        return event.attempt > state.attempt
    return _is_news_in_attempt(state, event)


def _is_news_in_attempt(state: JobState, event: Event) -> bool:
    match event:
        case JobPending() | JobStarted():
            return state.status is Status.CREATED
        case JobSuspended():
            return state.status is not Status.SUSPENDED
        case RankExited():
            return all(rank.rank != event.rank or rank.status in ("Pending", "Running") for rank in state.ranks)
        case StepChanged():
            old = state.steps.get(event.step)
            return old is None or _STEP_ORDER.get(event.status, 0) >= _STEP_ORDER.get(old.status, 0)
        case JobResumed() | JobRestarting():
            return False
    return True


def reduce(state: JobState | None, event: Event) -> JobState:
    """The state after an event. Pure: the same arguments always give an equal state.

    Args:
        state: The state before, None before JobSubmitted.
        event: An event of this job for which `is_news` holds.

    Raises:
        TransitionError: The event can't follow the job's history, which the message tells.
    """
    if isinstance(event, JobSubmitted):
        if state is not None:
            raise _illegal(state, event)
        return _submitted(event)
    if state is None or event.uid != state.uid or not is_news(state, event):
        raise _illegal(state, event)
    rule = _TRANSITIONS.get(type(event))
    target = rule and rule.targets.get(state.status)
    if rule is None or target is None or (event.attempt > state.attempt and not rule.opens_attempt):
        raise _illegal(state, event)
    changes = rule.effect(state, event)
    return dataclasses.replace(state, **changes, status=target, cursor=event.cursor or state.cursor)


def _illegal(state: JobState | None, event: Event) -> TransitionError:
    what = f"{type(event).__name__} (attempt {event.attempt}) can't follow"
    if state is None:
        return TransitionError(f"job {event.job!r} ({event.uid}): {what}, because the job is not known")
    fields = ("uid", "status", "reason", "attempt", "restarts", "stop", "deleted", "cursor")
    told = ", ".join(f"{name}={str(getattr(state, name))!r}" for name in fields)
    return TransitionError(f"job {event.job!r} ({event.uid}): {what} what is known: {told}")


def _submitted(event: JobSubmitted) -> JobState:
    return JobState(
        place=event.place,
        name=event.job,
        uid=event.uid,
        reason="Queued",
        attempt=event.attempt,
        spec=event.spec,
        digest=event.digest,
        created=event.time,
        cursor=event.cursor,
    )


def _pending(state: JobState, event: JobPending) -> dict[str, Any]:
    return {"reason": event.reason, "message": event.message}


def _started(state: JobState, event: JobStarted) -> dict[str, Any]:
    # A rank may have ended before the last one was up; what is known of its end is kept.
    ended = {rank.rank: rank for rank in state.ranks}
    ranks = []
    for info in event.ranks:
        known = {f.name: getattr(info, f.name) for f in dataclasses.fields(info)}
        old = ended.pop(info.rank, None)
        outcome = {"status": old.status, "exit_code": old.exit_code} if old else {"status": "Running"}
        ranks.append(RankState(**known, **outcome))
    started = event.time if state.started is None else state.started
    return {"reason": "", "message": "", "started": started, "ranks": _by_rank([*ranks, *ended.values()])}


def _by_rank(ranks: list[RankState]) -> tuple[RankState, ...]:
    return tuple(sorted(ranks, key=lambda rank: rank.rank))


def _step(state: JobState, event: StepChanged) -> dict[str, Any]:
    step = StepState(status=event.status, host=event.host, message=event.message)
    return {"steps": {**state.steps, event.step: step}}


def _rank_exited(state: JobState, event: RankExited) -> dict[str, Any]:
    old = next((rank for rank in state.ranks if rank.rank == event.rank), None)
    status = "Succeeded" if event.exit_code == 0 else "Failed"
    rank = dataclasses.replace(
        old or RankState(node=event.node, rank=event.rank), status=status, exit_code=event.exit_code
    )
    return {"ranks": _by_rank([*(other for other in state.ranks if other is not old), rank])}


def _stop(state: JobState, event: StopRequested) -> dict[str, Any]:
    return {"stop": event.cause, "stop_message": event.message}


def _suspended(state: JobState, event: JobSuspended) -> dict[str, Any]:
    return {"reason": "Suspended", "message": state.stop_message, "progress": None, **_settled(state, "Failed")}


def _new_attempt(state: JobState, event: Event) -> dict[str, Any]:
    return {"attempt": event.attempt, "ranks": (), "steps": {}, "progress": None}


def _resumed(state: JobState, event: JobResumed) -> dict[str, Any]:
    # The suspend has been carried out; a pending cancel has not, and stays.
    stop = {"stop": None, "stop_message": ""} if state.stop == "suspend" else {}
    return {"reason": "Queued", "message": "", "resumed": event.time, **stop, **_new_attempt(state, event)}


def _restarting(state: JobState, event: JobRestarting) -> dict[str, Any]:
    restarts = state.restarts + 1
    return {"reason": "Restarting", "message": event.message, "restarts": restarts, **_new_attempt(state, event)}


def _settled(state: JobState, outcome: str) -> dict[str, Any]:
    """What ranks and steps are once everything has ended, where nobody told."""
    ranks = tuple(
        rank if rank.status in ("Succeeded", "Failed") else dataclasses.replace(rank, status=outcome)
        for rank in state.ranks
    )
    steps = {
        name: step if step.status in ("Succeeded", "Failed") else dataclasses.replace(step, status=outcome)
        for name, step in state.steps.items()
    }
    return {"ranks": ranks, "steps": steps}


def _completed(state: JobState, event: JobCompleted) -> dict[str, Any]:
    end = {"attempt": event.attempt, "finished": event.time, "reason": event.reason, "message": event.message}
    return end | _settled(state, "Succeeded")


def _failed(state: JobState, event: JobFailed) -> dict[str, Any]:
    failure = Failure(**{f.name: getattr(event, f.name) for f in dataclasses.fields(Failure)})
    end = {"attempt": event.attempt, "finished": event.time, "reason": event.reason, "message": event.message}
    return {**end, "failure": failure, **_settled(state, "Failed")}


def _metric(state: JobState, event: MetricReported) -> dict[str, Any]:
    metrics = dict(state.metrics)
    for name, value in event.values.items():
        old = metrics.get(name)
        if old is not None or len(metrics) < _MAX_METRICS:
            metrics[name] = summarise(old, float(value), is_latest=event.attempt >= state.attempt)
    return {"metrics": metrics}


def _progress(state: JobState, event: ProgressReported) -> dict[str, Any]:
    if event.attempt < state.attempt:
        return {}
    old = state.progress or Progress()
    percent = old.percent if event.percent is None else float(event.percent)
    remaining = old.remaining if event.remaining is None else float(event.remaining)
    return {"progress": Progress(percent=percent, remaining=remaining, message=event.message or old.message)}


def _warning(state: JobState, event: JobWarning) -> dict[str, Any]:
    warning = (event.reason, event.message)
    if warning in state.warnings or len(state.warnings) >= _MAX_WARNINGS:
        return {}
    return {"warnings": (*state.warnings, warning)}


def _deleted(state: JobState, event: JobDeleted) -> dict[str, Any]:
    return {"deleted": True}


def _nothing(state: JobState, event: Event) -> dict[str, Any]:
    return {}


class _Rule(NamedTuple):
    """From which statuses an event is legal, what each becomes, and what else changes."""

    targets: Mapping[Status, Status]
    effect: Callable[[JobState, Any], dict[str, Any]]
    #: Whether the event may be the first that is heard of a newer attempt.
    opens_attempt: bool = False


_LIVE = (Status.CREATED, Status.RUNNING, Status.SUSPENDED)
_ACTIVE = (Status.CREATED, Status.RUNNING)


def _to(target: Status, *sources: Status) -> Mapping[Status, Status]:
    return dict.fromkeys(sources, target)


def _stay(*sources: Status) -> Mapping[Status, Status]:
    return {status: status for status in sources}


_TRANSITIONS: Mapping[type[Event], _Rule] = MappingProxyType(
    {
        JobPending: _Rule(_stay(Status.CREATED), _pending),
        JobStarted: _Rule(_to(Status.RUNNING, Status.CREATED), _started),
        StepChanged: _Rule(_stay(*_LIVE), _step),
        RankExited: _Rule(_stay(*_LIVE), _rank_exited),
        StopRequested: _Rule(_stay(*_LIVE), _stop, opens_attempt=True),
        JobSuspended: _Rule(_to(Status.SUSPENDED, *_ACTIVE), _suspended),
        JobResumed: _Rule(_to(Status.CREATED, Status.SUSPENDED), _resumed, opens_attempt=True),
        JobRestarting: _Rule(_to(Status.CREATED, *_ACTIVE), _restarting, opens_attempt=True),
        # The live source outranks us: whatever was missed before, an end counts.
        JobCompleted: _Rule(_to(Status.COMPLETE, *_LIVE), _completed, opens_attempt=True),
        JobFailed: _Rule(_to(Status.FAILED, *_LIVE), _failed, opens_attempt=True),
        # A study's trials are the optimizer's to fold. Here is only who may record them: the driver of this attempt.
        TrialStarted: _Rule(_stay(Status.RUNNING), _nothing),
        TrialReported: _Rule(_stay(Status.RUNNING), _nothing),
        TrialEnded: _Rule(_stay(Status.RUNNING), _nothing),
        # Reports come by another way than the watch and may overtake it.
        MetricReported: _Rule(_stay(*Status), _metric, opens_attempt=True),
        ProgressReported: _Rule(_stay(*Status), _progress, opens_attempt=True),
        JobWarning: _Rule(_stay(*Status), _warning, opens_attempt=True),
        Gap: _Rule(_stay(*Status), _nothing, opens_attempt=True),
        UnknownEvent: _Rule(_stay(*Status), _nothing, opens_attempt=True),
        JobDeleted: _Rule(_stay(*Status), _deleted, opens_attempt=True),
    }
)
_ALWAYS_NEWS = (MetricReported, ProgressReported, JobWarning, Gap, UnknownEvent, JobDeleted)
_STEP_ORDER = {"Pending": 0, "Running": 1, "Succeeded": 2, "Failed": 2}
