"""The driver of a study: starts trials, follows them, and records what they achieved.

It is the function of the study's own job, which the supervisor of local processes runs, restarts when it dies, and runs
once only. What it decides is recorded before it is done, so that the next driver finds every trial: one that was
recorded and never created is created then, one that runs is followed on, none runs twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from kfasync.engine import Engine, JobHandle
from kfasync.errors import JobNotFoundError
from kfasync.events import MetricReported, TrialEnded, TrialStarted
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._order import Order
from kfasync.optimizer._sampler import Sampler
from kfasync.optimizer._study import INFRASTRUCTURE, Study, TrialRecord, Verdict, objective_values
from kfasync.state import JobState, MetricSummary, Status
from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

__all__ = ["StudyFailedError", "drive"]

# Times that a trial is tried again for reasons that were not its own; more say that something else is wrong.
_RETRIES = 3


class StudyFailedError(Exception):
    """The study has failed, as a study: its driver did what it should and is not started again."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        #: Read by the worker: the reason of the job's failure, which no restart can mend.
        self.kfasync_reason = verdict.reason


async def drive(order: Order) -> dict[str, Any]:
    """Drive the study whose job this process is.

    Returns:
        The best trials: number, name, parameters and metrics each.

    Raises:
        StudyFailedError: No trial was of use, or too many failed.
    """
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(AsyncTrainerClient(LocalProcessBackendConfig()))
        place = await stack.enter_async_context(AsyncTrainerClient(order.backend))
        driver = Driver(order, home.engine, place, os.environ["KFASYNC_JOB_NAME"])
        verdict = await driver.run()
    if not verdict.complete:
        raise StudyFailedError(verdict)
    return {"reason": verdict.reason, "message": verdict.message}


class Driver:
    """One driver of one study.

    Args:
        order: What to do.
        engine: Of the place where the study's job lives.
        place: Where trials run.
        name: The study.
    """

    def __init__(self, order: Order, engine: Engine, place: AsyncTrainerClient, name: str) -> None:
        self._order = order
        self._engine = engine
        self._place = place
        self._name = name
        self._study = Study(order.objectives, order.config, order.rules)
        self._sampler = Sampler(order.space, order.objectives, order.algorithm, order.stopping, name=name)
        self._changed = asyncio.Event()
        self._ahead: asyncio.Task[dict[str, Any] | None] | None = None
        self._handles: dict[int, JobHandle] = {}
        self._leaving = False

    async def run(self) -> Verdict:
        """Drive the study to its end."""
        self._state = await self._engine.job(self._name)
        for event in await self._engine.history(self._state.uid):
            self._study.apply(event)
        await asyncio.to_thread(self._recall)
        async with asyncio.TaskGroup() as self._tasks, self._stoppable():
            for trial in self._study.running:
                self._tasks.create_task(self._follow(trial))
            while (verdict := self._study.verdict) is None:
                if self._study.room > 0:
                    await self._start()
                    continue
                if self._study.ends_running:
                    await self._end_running()
                await self._changed.wait()
                self._changed.clear()
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
        return verdict

    def _recall(self) -> None:
        """Tell the algorithm what an earlier driver of this study learned."""
        for trial in self._study.trials.values():
            self._sampler.add(
                trial.number, trial.parameters, trial.state, self._values(trial.metrics), notes=trial.notes
            )

    @asynccontextmanager
    async def _stoppable(self) -> AsyncIterator[None]:
        """Within it SIGTERM stops the study with its trials, and its timeout ends it well."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._tasks.create_task(self._leave()))
        timer = None
        if self._order.rules.timeout is not None:
            left = self._state.created + self._order.rules.timeout - time.time()
            timer = loop.call_later(max(0.0, left), self._stop, "Timeout")
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            if timer is not None:
                timer.cancel()

    def _stop(self, reason: str) -> None:
        self._study.stop(reason)
        self._changed.set()

    async def _leave(self) -> None:
        """The study's job is to end: so are its trials. Those of a suspended study go on with it when it is resumed."""
        self._leaving = True
        suspended = (await self._engine.job(self._name)).stop == "suspend"
        for handle in list(self._handles.values()):
            await (handle.suspend() if suspended else handle.cancel())
        for handle in list(self._handles.values()):
            await handle.wait({"Suspended", "Failed"} if suspended else {"Failed"})
        # What remains is left to the next driver of the study, if there is ever one.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    # ---------------------------------------------------------------- starting

    async def _start(self) -> None:
        """Start the next trial."""
        number = self._study.next_number
        if self._ahead is None:
            self._ahead = self._ask(number)
        parameters = await self._ahead
        self._ahead = None
        if parameters is None:
            self._stop("Exhausted")
            return
        trial = f"{self._name}-{number}"
        notes = self._sampler.notes(number)
        await self._record(
            TrialStarted(**self._header(), number=number, trial=trial, parameters=parameters, notes=notes)
        )
        self._tasks.create_task(self._follow(self._study.trials[number]))
        if self._order.config.parallel_trials > 1 and number + 1 < self._order.config.num_trials:
            # Ahead of need, so that a free slot does not wait for the algorithm.
            self._ahead = self._ask(number + 1)

    def _ask(self, number: int) -> asyncio.Task[dict[str, Any] | None]:
        queue = self._order.enqueued
        given = queue[number] if number < len(queue) else None
        return asyncio.create_task(asyncio.to_thread(self._sampler.ask, number, given))

    async def _record(self, event: TrialStarted | TrialEnded) -> None:
        await self._engine.record(event)
        self._study.apply(event)
        self._changed.set()

    def _header(self) -> dict[str, Any]:
        state = self._state
        return {
            "place": state.place, "job": state.name, "uid": state.uid, "attempt": state.attempt, "time": time.time(),
        }  # fmt: skip

    # ---------------------------------------------------------------- following

    async def _follow(self, trial: TrialRecord) -> None:
        """See a trial to its end, and record it."""
        state, metrics, pruned = await self._see(trial)
        while not self._leaving and state.reason in INFRASTRUCTURE and trial.retries < _RETRIES:
            retry = trial.retries + 1
            again = TrialStarted(
                **self._header(),
                number=trial.number,
                trial=f"{self._name}-{trial.number}-r{retry}",
                parameters=trial.parameters,
                retry=retry,
                notes=trial.notes,
            )
            await self._record(again)
            trial = self._study.trials[trial.number]
            state, metrics, pruned = await self._see(trial)
        if not self._leaving:
            await self._conclude(trial, state, metrics, pruned)

    async def _see(self, trial: TrialRecord) -> tuple[JobState, dict[str, MetricSummary], bool]:
        """Create the trial's job, unless it is there, and wait for its end."""
        template = self._order.template
        handle = await self._place.submit(
            template.runtime,
            template.initializer,
            self._order.trainer(trial.parameters),
            name=trial.name,
            labels={"kfasync.dev/study": self._name},
        )
        self._handles[trial.number] = handle
        try:
            if self._study.ends_running:
                await self._end_running()
            if (await handle.state()).status is Status.SUSPENDED:
                await handle.resume()
            pruned = self._order.stopping is not None and await self._watch(trial.number, handle)
            state = await handle.wait({"Complete", "Failed"})
            return state, dict(await self._place.get_job_metrics(trial.name)), pruned
        finally:
            del self._handles[trial.number]

    async def _watch(self, number: int, handle: JobHandle) -> bool:
        """Show the rule what the trial reports, and end it when the rule says so. Returns whether it did."""
        metric, count = self._order.objectives[0].metric, 0
        async with aclosing(handle.metrics()) as reports:
            async for report in reports:
                if metric not in report.values:
                    continue
                step = count if report.step is None else report.step
                count += 1
                if await asyncio.to_thread(self._judge, number, step, report):
                    await handle.cancel(cause="prune", message="stopped early: it could not become the best")
                    return True
        return False

    def _judge(self, number: int, step: float, report: MetricReported) -> bool:
        self._sampler.report(number, step, float(report.values[self._order.objectives[0].metric]))
        return self._sampler.should_prune(number)

    async def _conclude(
        self, trial: TrialRecord, state: JobState, metrics: dict[str, MetricSummary], pruned: bool
    ) -> None:
        values = self._values(metrics)
        outcome, reason, message = TrialState.COMPLETE, state.reason, state.message
        if state.status is Status.FAILED:
            outcome = TrialState.PRUNED if pruned or state.reason == "Pruned" else TrialState.FAILED
        elif len(values) < len(self._order.objectives):
            outcome, reason = TrialState.FAILED, "NoMetric"
            missing = (each.metric for each in self._order.objectives if each.metric not in values)
            message = f"it never reported {' and '.join(missing)}"
        await asyncio.to_thread(self._sampler.tell, trial.number, values, outcome)
        summaries = {name: (each.min, each.max, each.latest) for name, each in metrics.items()}
        ended = TrialEnded(
            **self._header(), number=trial.number, outcome=outcome, metrics=summaries, reason=reason, message=message
        )
        await self._record(ended)

    def _values(self, metrics: Any) -> dict[str, float]:
        return objective_values(self._order.objectives, metrics)

    async def _end_running(self) -> None:
        """The study is decided: what still runs can't change that."""
        for handle in list(self._handles.values()):
            try:
                await handle.cancel(cause="prune", message=f"the study is over: {self._study.stopping}")
            except JobNotFoundError:
                continue
