"""Ask and tell: a study whose trials its caller runs, in whatever way it likes.

It is recorded like every study, so it can be looked at, goes on in another process, and outlives kill -9. What was
asked for and never told, because its process ended, is handed out again.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from kfasync import settings
from kfasync.engine import Engine
from kfasync.errors import (
    InvalidSpecError,
    JobNotFoundError,
    KfasyncError,
    StudyHeldError,
    SupersededError,
    TransitionError,
)
from kfasync.events import (
    Event,
    JobCompleted,
    JobFailed,
    JobRestarting,
    JobResumed,
    JobStarted,
    JobSuspended,
    RankInfo,
    TrialEnded,
    TrialReported,
    TrialStarted,
)
from kfasync.jobs import JobSpec
from kfasync.optimizer._checks import real
from kfasync.optimizer._lease import Lease, ended
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._plan import StudyPlan
from kfasync.optimizer._sampler import Sampler
from kfasync.optimizer._study import TrialRecord
from kfasync.optimizer._views import Result, Trial, result_of, trial_of
from kfasync.state import JobState, Status

__all__ = ["AskTellStudy", "AskedTrial", "lapse", "lease_of", "watch"]

T = TypeVar("T")


@dataclass(frozen=True)
class AskedTrial:
    """Something to try.

    Attributes:
        number: Its number in the study, from 0.
        parameters: A value for each parameter that exists beside the others.
        retry: How often it was handed out before, to processes that ended without a word on it.
    """

    number: int
    parameters: Mapping[str, Any]
    retry: int = 0


def lease_of(state: JobState) -> Lease:
    """The right to drive a study that is asked and told."""
    return Lease(Path(settings.load().home) / "studies" / state.uid)


async def lapse(engine: Engine, state: JobState) -> JobState:
    """Record that nobody drives a study any more, if that is so; whoever sees it first does.

    Returns:
        What is true of it then.
    """
    if state.job_spec.entry != "asked" or state.status is not Status.RUNNING or lease_of(state).holder() is not None:
        return state
    # Stale, and so without effect, where somebody has taken it over in between.
    await engine.record(JobSuspended(**_header(state), time=time.time()))
    return await engine.job(state.name)


async def watch(engine: Engine, name: str) -> None:
    """See to it that a study is not taken for running when its driver has died, until the study is over."""
    handle = await engine.handle(name)
    async for state in handle.changes():
        if state.status is Status.RUNNING:
            pid = lease_of(state).holder()
            if pid is not None:
                await ended(pid)
            await lapse(engine, state)


def _header(state: JobState, attempt: int | None = None) -> dict[str, Any]:
    return {"place": state.place, "job": state.name, "uid": state.uid, "attempt": attempt or state.attempt}


class AskTellStudy:
    """A study that is driven by whoever opens it with ``async with``, one process at a time.

    Left before its last trial it is Suspended, and goes on where it is opened again; so it does after a kill -9. Calls
    may be made from many tasks at once. How many trials are asked for at a time is the caller's affair.

    Raises:
        StudyHeldError: At ``async with``: another process has it.
        JobExistsError: At ``async with``: the name belongs to something else.

    Example:
        >>> async with client.study(search_space={"x": Search.uniform(-1, 1)}, name="demo") as study:  # doctest: +SKIP
        ...     while (trial := await study.ask()) is not None:
        ...         await study.tell(trial, trial.parameters["x"] ** 2)
        ...     print(study.best)
    """

    def __init__(self, engine: Engine, name: str, plan: StudyPlan, *, wait: bool) -> None:
        if plan.algorithm.hands_on:
            raise InvalidSpecError(f"{type(plan.algorithm).__name__} hands checkpoints from job to job: use optimize()")
        self._engine = engine
        self._name = name
        self._plan = plan
        self._wait = wait
        self._study = plan.study()
        self._sampler: Sampler | None = None
        # Trials that this object handed out; the others were asked for by a process that is gone.
        self._mine: set[int] = set()
        self._reports = 0
        self._asking = asyncio.Lock()
        # The trial that the last ask began to find, when that one was cut before it had it.
        self._coming: asyncio.Task[AskedTrial | None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._telling: dict[int, asyncio.Task[None]] = {}
        self._driving = False

    async def __aenter__(self) -> Self:
        extra = {"study": self._plan.describe(), "enqueued": [*map(self._plan.space.dump, self._plan.enqueued)]}
        self._state = await self._engine.declare(JobSpec(name=self._name, entry="asked", extra=extra))
        self._lease = lease_of(self._state)
        await self._take()
        try:
            await self._begin()
            await self._recall()
        except BaseException:
            self._lease.release()
            raise
        if not self._driving:
            self._lease.release()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            if self._driving and self._study.ends_running:
                for trial in self._study.running:
                    await self._conclude(trial, TrialState.PRUNED, message=f"the study is over: {self._study.stopping}")
        finally:
            # Given back before it is recorded: whoever waits for that can take it at once.
            self._lease.release()
        if self._driving:
            self._driving = False
            await self._engine.record(JobSuspended(**_header(self._state), time=time.time()))

    # --- taking over ---

    async def _take(self) -> None:
        while not self._lease.take():
            pid = self._lease.holder()
            if pid is None:
                continue
            if not self._wait or pid == os.getpid():
                raise StudyHeldError(self._name, pid)
            await self._gone(pid)

    async def _gone(self, pid: int) -> None:
        """Wait until a process that drives the study ends, or says that it drives it no more."""
        handle = await self._engine.handle(self._name)
        ends = [
            asyncio.ensure_future(ended(pid)),
            asyncio.ensure_future(handle.wait({"Suspended", "Complete", "Failed"})),
        ]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.wait(ends)
        for end in done:
            end.result()

    async def _begin(self) -> None:
        """Record that this process drives the study now: what an earlier one records from here on is refused."""
        while not self._driving:
            self._state = await self._engine.job(self._name)
            if self._state.terminal:
                return
            # What can't follow: somebody has noticed meanwhile that nobody drove it.
            with suppress(TransitionError):
                if not await self._engine.record(*self._beginning(self._state)):
                    raise SupersededError(await self._why())
                self._driving = True
        self._state = await self._engine.job(self._name)

    @staticmethod
    def _beginning(state: JobState) -> list[Event]:
        events: list[Event] = []
        attempt, now = state.attempt, time.time()
        if state.status is Status.RUNNING:
            attempt += 1
            events.append(JobRestarting(**_header(state, attempt), time=now, message="the process that drove it ended"))
        elif state.status is Status.SUSPENDED:
            attempt += 1
            events.append(JobResumed(**_header(state, attempt), time=now))
        driver = RankInfo(node=0, rank=0, pid=os.getpid())
        events.append(JobStarted(**_header(state, attempt), time=now, ranks=(driver,)))
        return events

    async def _recall(self) -> None:
        for event in await self._engine.history(self._state.uid):
            self._study.apply(event)
        if self._driving:
            self._sampler = await asyncio.to_thread(self._fed)

    def _fed(self) -> Sampler:
        plan, study = self._plan, self._study
        sampler = Sampler(plan.space, plan.objectives, plan.algorithm, plan.stopping, name=self._name)
        running = {trial.number for trial in study.running}
        plan.recall(sampler, study, {n: told for n, told in study.reports.items() if n not in running})
        return sampler

    # --- asking and telling ---

    @property
    def name(self) -> str:
        """The study's name."""
        return self._name

    @property
    def best(self) -> list[Result]:
        """The complete trials that no other one beats: one for one objective, else the Pareto front; empty at first."""
        return [result_of(trial) for trial in self._study.best]

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, by number."""
        return [trial_of(trial) for trial in self._study.trials.values()]

    async def ask(self) -> AskedTrial | None:
        """Something to try; None when there is nothing more, because there were all trials or a stop rule says so.

        Raises:
            SupersededError: The study was stopped or deleted, or another process has taken it over.
        """
        async with self._asking:
            if self._coming is None:
                self._coming = self._begun(self._find())
            trial = await asyncio.shield(self._coming)
            self._coming = None
            return trial

    def _begun(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Done to its end, whatever becomes of the caller: what is half recorded can't be repeated."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Retrieved: the caller may have given up.

    async def _find(self) -> AskedTrial | None:
        if not self._driving:
            return None
        self._keep_time()
        for trial in self._study.running:
            if trial.number not in self._mine and not self._study.stopping:
                return await self._hand_out(trial.number, trial.parameters, trial.retries + 1, trial.notes)
        return await self._next()

    async def _next(self) -> AskedTrial | None:
        sampler = await self._driven()
        while (number := self._study.next_number) < self._plan.config.num_trials and not self._study.stopping:
            try:
                parameters = await asyncio.to_thread(sampler.ask, number, self._plan.given(number))
            except KfasyncError:
                raise
            except Exception as error:
                # It broke down over this one, whose number is used; it may well find the next.
                await self._fail(number, f"{type(error).__name__}: {error}")
                continue
            if parameters is None:
                self._study.stop("Exhausted")
                await self._finish()
                return None
            return await self._hand_out(number, parameters, 0, sampler.notes(number))
        return None

    async def _fail(self, number: int, message: str) -> None:
        """Record, in one step, a trial that the algorithm could not find."""
        header = _header(self._state) | {"time": time.time()}
        outcome, reason = TrialState.FAILED, "AlgorithmFailed"
        await self._record(
            TrialStarted(**header, number=number, trial=f"{self._name}-{number}", parameters={}),
            TrialEnded(**header, number=number, outcome=outcome, reason=reason, message=message),
        )
        await self._finish()

    async def _hand_out(
        self, number: int, parameters: Mapping[str, Any], retry: int, notes: Mapping[str, Any]
    ) -> AskedTrial:
        await self._record(
            TrialStarted(
                **_header(self._state),
                time=time.time(),
                number=number,
                trial=f"{self._name}-{number}",
                parameters=parameters,
                retry=retry,
                notes=notes,
            )
        )
        self._mine.add(number)
        return AskedTrial(number, dict(parameters), retry)

    async def report(self, trial: AskedTrial | int, step: float, value: float) -> bool:
        """Say what a running trial has achieved so far: the first objective at a step.

        Returns:
            Whether the early stopping rule wants it ended: tell it as ``"pruned"`` then.

        Raises:
            InvalidSpecError: There is no such trial, or it has ended; or the step is no number of at least 0.
            SupersededError: As `ask`.
        """
        number = self._running(trial).number
        return await asyncio.shield(self._begun(self._report(number, real(step, "step", least=0.0), float(value))))

    async def _report(self, number: int, step: float, value: float) -> bool:
        sampler = await self._driven()
        position, self._reports = self._reports, self._reports + 1
        told = TrialReported(
            **_header(self._state), time=time.time(), number=number, step=step, value=value, position=position
        )
        await self._record(told)
        return await asyncio.to_thread(self._judge, sampler, number, step, value)

    @staticmethod
    def _judge(sampler: Sampler, number: int, step: float, value: float) -> bool:
        sampler.report(number, step, value)
        return sampler.should_prune(number)

    async def tell(
        self,
        trial: AskedTrial | int,
        values: float | Mapping[str, float] | None = None,
        *,
        state: TrialState | str = "complete",
        message: str = "",
    ) -> None:
        """Say how a trial ended; any process that drives the study may, whichever asked for it.

        Args:
            trial: The trial, or its number.
            values: The objective, or metrics by name, the objectives among them. Not needed unless it is complete.
            state: ``complete``, ``failed`` or ``pruned``. A complete trial without an objective, or with nan for one,
                counts as failed.
            message: What a person needs to know.

        Raises:
            InvalidSpecError: There is no such trial, it has ended, or the values are no numbers.
            SupersededError: As `ask`.
        """
        record = self._running(trial)
        if record.number in self._telling:
            # A call that was cut has begun to; it is not told twice.
            await asyncio.shield(self._telling[record.number])
            record = self._running(trial)
        try:
            outcome = TrialState(state)
        except ValueError:
            outcome = TrialState.RUNNING
        if outcome is TrialState.RUNNING:
            raise InvalidSpecError(f"state is complete, failed or pruned, not {state!r}")
        telling = self._begun(self._conclude(record, outcome, self._metrics(values), message))
        self._telling[record.number] = telling
        telling.add_done_callback(lambda _: self._telling.pop(record.number))
        await asyncio.shield(telling)

    def _metrics(self, values: float | Mapping[str, float] | None) -> dict[str, float]:
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            if len(self._plan.objectives) > 1:
                raise InvalidSpecError("with several objectives tell values by name: {metric: value, …}")
            values = {self._plan.objectives[0].metric: values}
        try:
            return {name: float(value) for name, value in values.items()}
        except (TypeError, ValueError):
            raise InvalidSpecError(f"the values of a trial must be numbers, not {values!r:.200}") from None

    def _running(self, trial: AskedTrial | int) -> TrialRecord:
        number = trial if isinstance(trial, int) else trial.number
        record = self._study.trials.get(number)
        if record is None:
            raise InvalidSpecError(f"the study {self._name!r} has no trial {number!r}")
        if record.state is not TrialState.RUNNING:
            raise InvalidSpecError(f"trial {number} has ended already, as {record.state.value}")
        return record

    async def _conclude(
        self, trial: TrialRecord, outcome: TrialState, values: Mapping[str, float] | None = None, message: str = ""
    ) -> None:
        told, reason = dict(values or {}), "" if outcome is TrialState.COMPLETE else outcome.value.capitalize()
        missing = [o.metric for o in self._plan.objectives if math.isnan(told.get(o.metric, math.nan))]
        if outcome is TrialState.COMPLETE and missing:
            outcome, reason, message = TrialState.FAILED, "NoMetric", f"it was told without {' and '.join(missing)}"
        sampler = await self._driven()
        await asyncio.to_thread(sampler.tell, trial.number, told, outcome)
        await self._end(trial, outcome, told, reason, message)

    async def _end(
        self, trial: TrialRecord, outcome: TrialState, told: Mapping[str, float], reason: str, message: str
    ) -> None:
        sampler = await self._driven()
        noted = {key: value for key, value in sampler.notes(trial.number).items() if key not in trial.notes}
        await self._record(
            TrialEnded(
                **_header(self._state),
                time=time.time(),
                number=trial.number,
                outcome=outcome,
                metrics={name: (value, value, value) for name, value in told.items()},
                reason=reason,
                message=message,
                notes=noted,
            )
        )
        await self._finish()

    async def _finish(self) -> None:
        """Record the study's end, if this is it."""
        verdict = self._study.verdict
        if verdict is None:
            return
        end = JobCompleted if verdict.complete else JobFailed
        told: dict[str, Any] = {"reason": verdict.reason, "message": verdict.message}
        await self._record(end(**_header(self._state), time=time.time(), **told))
        self._driving = False

    def _keep_time(self) -> None:
        timeout, first = self._plan.rules.timeout, self._study.trials.get(0)
        if timeout is not None and first is not None and time.time() > first.started + timeout:
            self._study.stop("Timeout")

    async def _driven(self) -> Sampler:
        """The sampler of a study that this process drives."""
        if self._sampler is None or not self._driving:
            raise SupersededError(await self._why())
        return self._sampler

    async def _record(self, *events: Event) -> None:
        """Record something, or learn that it is not this process's to record any more."""
        recorded = False
        # What can't follow: somebody has suspended the study meanwhile.
        with suppress(TransitionError):
            recorded = await self._engine.record(*events)
        if not recorded:
            self._driving = False
            raise SupersededError(await self._why())
        for event in events:
            self._study.apply(event)

    async def _why(self) -> str:
        try:
            state = await self._engine.job(self._name)
        except JobNotFoundError:
            return f"the study {self._name!r} was deleted"
        if state.uid != self._state.uid or state.attempt != self._state.attempt:
            return f"another process has taken the study {self._name!r} over"
        told = f"{state.status.value} ({state.reason})" if state.reason else state.status.value
        return f"the study {self._name!r} is {told}: {state.message}"
