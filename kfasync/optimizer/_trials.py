"""The jobs of a study's trials: created, found again, watched and ended. What follows, others decide."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kfasync.engine import UNDECIDED, Backoff, JobHandle
from kfasync.errors import InvalidSpecError, JobExistsError, JobNotFoundError, RuntimeNotFoundError
from kfasync.events import Event, MetricReported
from kfasync.optimizer._curves import Curve
from kfasync.optimizer._objective import Objective, TrialState
from kfasync.optimizer._order import STUDY_LABEL, Order
from kfasync.optimizer._study import TrialRecord, objective_values
from kfasync.state import JobState, MetricSummary, Status
from kfasync.state._metrics import summarise
from kfasync.trainer import AsyncTrainerClient

__all__ = ["Ending", "Trials", "go_on"]

_STILL = frozenset({Status.SUSPENDED, Status.COMPLETE, Status.FAILED})
_GOES_ON = frozenset({Status.RUNNING, Status.COMPLETE, Status.FAILED})
_EARLY = "stopped early: it could not become the best"
_UNSAVED = "it saved nothing into kfasync.checkpoint_dir(), and with PBT the next trials go on from there"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial ended.

    Attributes:
        outcome: Complete, failed or pruned.
        reason: Typed reason of a failure.
        message: What a person needs to know.
        metrics: Everything that it reported.
    """

    outcome: TrialState
    reason: str = ""
    message: str = ""
    metrics: Mapping[str, MetricSummary] = field(default_factory=dict)


class Trials:
    """The jobs of one study's trials.

    Args:
        order: What each trial is.
        place: Where they run.
        study: The study's name, which each job bears as a label.
        judge: Told number, step and value of each report of the first objective; says whether the trial ends early.
    """

    def __init__(
        self, order: Order, place: AsyncTrainerClient, study: str, judge: Callable[[int, float, float], bool]
    ) -> None:
        self._order = order
        self._place = place
        self._study = study
        self._judge = judge
        self._handles: dict[int, JobHandle] = {}
        self._halted: tuple[str, str] | None = None
        self._suspended = asyncio.Event()

    async def see(self, trial: TrialRecord, *, known: bool) -> Ending | None:
        """See a trial to its end; while its place can't be reached, wait for it: the trial goes on there, or will.

        Args:
            trial: The trial, recorded before.
            known: Whether an earlier driver may have created its job.

        Returns:
            Its end; None for one that is suspended with its study.
        """
        backoff = Backoff(f"trial {trial.number} of {self._study}", attempts=math.inf)
        while True:
            try:
                return await self._see(trial, known=known)
            except UNDECIDED as error:
                await backoff.pause(error)
                known = True

    async def _see(self, trial: TrialRecord, *, known: bool) -> Ending | None:
        try:
            handle = await self._find(trial) if known else None
            if handle is None and self._halted is not None:
                return self._never()
            handle = await (self._create(trial) if handle is None else self._ensure(trial, handle))
            self._handles[trial.number] = handle
            return await self._follow(trial, handle)
        except (InvalidSpecError, JobExistsError, RuntimeNotFoundError) as error:
            return Ending(outcome=TrialState.FAILED, reason="NotCreated", message=str(error))
        except JobNotFoundError:
            return Ending(outcome=TrialState.FAILED, reason="Deleted", message="somebody deleted its job")
        finally:
            self._handles.pop(trial.number, None)

    async def halt(self, cause: str, message: str) -> None:
        """Have every trial stopped, those included that are just being created.

        Args:
            cause: ``suspend``, ``cancel`` or ``prune``.
            message: What a person needs to know of it.
        """
        if self._halted != (cause, message):
            self._halted = (cause, message)
            if cause == "suspend":
                self._suspended.set()
            await asyncio.gather(*map(self._stop, list(self._handles.values())))

    async def reported(self, trial: TrialRecord) -> list[tuple[float, float]]:
        """Steps and values of the first objective that a trial has reported; none when its job was deleted."""
        curve, reports = self._curve(), await self._place.engine.reports([trial.name])
        return [point for each in reports if (point := curve.point(each.step, each.values, each.rank)) is not None]

    def _curve(self) -> Curve:
        objective = self._order.objectives[0]
        return Curve(objective.metric, objective.rank)

    async def _find(self, trial: TrialRecord) -> JobHandle | None:
        """The job that an earlier driver created; it goes on if it was suspended with the study."""
        try:
            handle = await self._place.attach(trial.name)
            state = await handle.state()
        except JobNotFoundError:
            return None
        if state.job_spec.labels.get(STUDY_LABEL) != self._study:
            return None  # Somebody else's: creating ours will say so.
        if self._halted is None:
            await go_on(handle, state)
        return handle

    async def _ensure(self, trial: TrialRecord, handle: JobHandle) -> JobHandle:
        """See that a job that was found is more than an intent, recorded by a driver that died before it created it.

        To submit it again creates it then, and is nothing to a place that has it.
        """
        if self._halted is None and (await handle.state()).status is Status.CREATED:
            with contextlib.suppress(JobExistsError):  # It is there, and its function looks another way from here.
                return await self._create(trial)
        return handle

    async def _create(self, trial: TrialRecord) -> JobHandle:
        template = self._order.template
        return await self._place.submit(
            template.runtime,
            template.initializer,
            self._order.trainer(trial.parameters),
            name=trial.name,
            labels={STUDY_LABEL: self._study},
            checkpoint_from=trial.parent or None,
        )

    async def _follow(self, trial: TrialRecord, handle: JobHandle) -> Ending | None:
        if self._halted is not None:
            await self._stop(handle)
        over = asyncio.create_task(self._over(handle))
        watching = asyncio.create_task(self._watch(trial.number, handle))
        try:
            done, _ = await asyncio.wait([over, watching], return_when=asyncio.FIRST_COMPLETED)
            if watching in done:
                watching.result()  # A trial that can't be judged or stopped would go on for ever, unseen.
            state = await over
            if not state.terminal:
                return None
            await watching
        finally:
            over.cancel()
            watching.cancel()
            await asyncio.gather(over, watching, return_exceptions=True)
        reported = await self._place.engine.metrics_of(state)
        metrics = await self._counted(state, reported)
        missing = [_missing(each, metrics, reported) for each in self._order.objectives]
        saved = await self._has_saved(handle, state)
        return _ending(state, metrics, missing="; ".join(filter(None, missing)), saved=saved)

    async def _counted(self, state: JobState, reported: Mapping[str, MetricSummary]) -> dict[str, MetricSummary]:
        """All that a job has reported, its objectives only by the ranks that count for each."""
        metrics, objectives = dict(reported), self._order.objectives
        if len(state.ranks) != 1 or any(each.rank not in (None, 0) for each in objectives):
            events = await self._place.engine.history(state.uid)
            for objective in objectives:
                metrics.pop(objective.metric, None)
                if (summary := _summary(objective, events)) is not None:
                    metrics[objective.metric] = summary
        return metrics

    async def _has_saved(self, handle: JobHandle, state: JobState) -> bool:
        """Whether a trial from which others are to go on left something for them."""
        if not self._order.algorithm.hands_on or state.status is not Status.COMPLETE:
            return True
        checkpoint = await handle.checkpoint()
        return await asyncio.to_thread(lambda: checkpoint.is_dir() and any(checkpoint.iterdir()))

    async def _over(self, handle: JobHandle) -> JobState:
        """Wait until the job has ended, or is suspended because the study is."""
        while (state := await handle.wait(_STILL)).status is Status.SUSPENDED and not self._suspended.is_set():
            # Somebody suspended this trial alone: it goes on some day, or the study is suspended meanwhile.
            either = asyncio.create_task(handle.wait(_GOES_ON)), asyncio.create_task(self._suspended.wait())
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in either:
                    task.cancel()
                await asyncio.gather(*either, return_exceptions=True)
        return state

    async def _watch(self, number: int, handle: JobHandle) -> None:
        """Show the rule what the trial reports, and end it when the rule says so."""
        if self._order.stopping is None:
            return
        curve = self._curve()
        async with contextlib.aclosing(handle.metrics()) as reports:
            async for report in reports:
                point = curve.point(report.step, report.values, report.rank)
                if point is not None and await asyncio.to_thread(self._judge, number, *point):
                    await handle.cancel(cause="prune", message=_EARLY)
                    return

    async def _stop(self, handle: JobHandle) -> None:
        assert self._halted is not None
        cause, message = self._halted
        with contextlib.suppress(JobNotFoundError):
            await (handle.suspend() if cause == "suspend" else handle.cancel(cause=cause, message=message))

    def _never(self) -> Ending | None:
        """The end of a trial whose job is not created any more."""
        assert self._halted is not None
        cause, message = self._halted
        if cause == "suspend":
            return None
        if cause == "prune":
            return Ending(outcome=TrialState.PRUNED, reason="Pruned", message=message)
        return Ending(outcome=TrialState.FAILED, reason="Cancelled", message=message)


async def go_on(handle: JobHandle, state: JobState) -> None:
    """Have a job run again if it is suspended, or is about to be."""
    if state.stop == "suspend":
        await handle.wait({Status.SUSPENDED, Status.FAILED})
        await handle.resume()


def _ending(state: JobState, metrics: Mapping[str, MetricSummary], *, missing: str, saved: bool) -> Ending:
    outcome, reason, message = TrialState.COMPLETE, state.reason, state.message
    if state.status is Status.FAILED:
        # By the job's word: a trial that failed by itself before it could be asked has failed.
        outcome = TrialState.PRUNED if reason == "Pruned" else TrialState.FAILED
    elif missing:
        outcome, reason, message = TrialState.FAILED, "NoMetric", missing
    elif not saved:
        outcome, reason, message = TrialState.FAILED, "NoCheckpoint", _UNSAVED
    return Ending(outcome=outcome, reason=reason, message=message, metrics=metrics)


def _summary(objective: Objective, events: Iterable[Event]) -> MetricSummary | None:
    """What the ranks that count have reported of an objective."""
    summary, attempt = None, 0
    for event in events:
        if not isinstance(event, MetricReported) or objective.rank not in (None, event.rank):
            continue
        if (value := event.values.get(objective.metric)) is not None:
            summary = summarise(summary, float(value), is_latest=event.attempt >= attempt)
            attempt = max(attempt, event.attempt)
    return summary


def _missing(objective: Objective, metrics: Mapping[str, MetricSummary], reported: Mapping[str, MetricSummary]) -> str:
    """Why a trial has no value of an objective, for people; empty when it has one."""
    metric = objective.metric
    if objective_values([objective], metrics):
        return ""
    if metric in metrics:
        return f"all that it reported of {metric} is nan"
    if metric in reported:
        return (
            f"its rank {objective.rank} never reported {metric}, another one did: ask for that by Objective(rank=...)"
        )
    return f"it never reported {metric}"
