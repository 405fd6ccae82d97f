"""The driver of a study: starts trials, follows them, and records what they achieved.

It is the function of the study's own job, which the supervisor of local processes runs, restarts when it dies, and runs
once only. What it decides is recorded before it is done, so that the next driver finds every trial: one that was
recorded and never created is created then, one that runs is followed on, none runs twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, NoReturn

from kfasync.engine import Engine
from kfasync.errors import KfasyncError, MissingExtraError, SupersededError
from kfasync.events import TrialEnded, TrialStarted
from kfasync.optimizer._algorithms import PBT
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._order import Order
from kfasync.optimizer._pbt import Population
from kfasync.optimizer._sampler import AskTell, Sampler
from kfasync.optimizer._study import INFRASTRUCTURE, TrialRecord, Verdict
from kfasync.optimizer._trials import Ending, Trials
from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

__all__ = ["Driver", "StudyFailedError", "drive"]

# Times that a trial is tried again for reasons that were not its own; more say that something else is wrong.
_RETRIES = 3
# Seconds after which a thread has to let another one run, in a driver's process.
_SWITCH = 0.0005


class StudyFailedError(Exception):
    """The study has failed, as a study: its driver did what it should and is not started again."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        #: Read by the worker: the reason of the job's failure, which no restart can mend.
        self.kfasync_reason = verdict.reason


async def drive(order: Order) -> dict[str, Any]:
    """Drive the study whose job this process is.

    Returns:
        Why it ended, and what a person needs to know.

    Raises:
        StudyFailedError: No trial was of use, or too many failed.
    """
    name, attempt = os.environ["KFASYNC_JOB_NAME"], int(os.environ["KFASYNC_ATTEMPT"])
    # An algorithm thinks of the next trial in a thread, and each step of the loop would wait 5 ms for the interpreter.
    sys.setswitchinterval(_SWITCH)
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(AsyncTrainerClient(LocalProcessBackendConfig()))
        place = await stack.enter_async_context(AsyncTrainerClient(order.backend))
        try:
            verdict = await Driver(order, home.engine, place, name, attempt).run()
        except MissingExtraError as error:
            raise StudyFailedError(Verdict(False, "MissingExtra", str(error))) from error
    if verdict is None:
        _end_by_signal()
    if not verdict.complete:
        raise StudyFailedError(verdict)
    return {"reason": verdict.reason, "message": verdict.message}


def _end_by_signal() -> NoReturn:
    """As a program ends that was asked to: what is left to do is the next driver's, if there is ever one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    while True:  # Another thread may take the signal, a moment later.
        signal.pause()


class Driver:
    """One driver of one study.

    Args:
        order: What to do.
        engine: Of the place where the study's job lives.
        place: Where trials run.
        name: The study.
        attempt: Of the study's job: what a driver of an older one records is refused.
    """

    def __init__(self, order: Order, engine: Engine, place: AsyncTrainerClient, name: str, attempt: int) -> None:
        self._order = order
        self._engine = engine
        self._name = name
        self._attempt = attempt
        self._study = order.study()
        self._trials = Trials(order, place, name, self._judge)
        self._changed = asyncio.Event()
        self._ahead: asyncio.Task[dict[str, Any] | None] | None = None
        self._interrupted = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> Verdict | None:
        """Drive the study to its end.

        Returns:
            How it ended; None when its job was asked to stop before that.

        Raises:
            SupersededError: Another driver has the study.
        """
        await self._take_up()
        with self._interruptible():
            async with asyncio.TaskGroup() as self._tasks:
                for trial in self._study.running:
                    self._tasks.create_task(self._follow(trial, known=True))
                verdict = await self._decide()
        if self._ahead is not None:
            self._ahead.cancel()
        return verdict

    async def _take_up(self) -> None:
        """Learn what earlier drivers of this study did."""
        # Making it imports Optuna, which takes half a second: meanwhile the loop hears of what it needs.
        making = asyncio.create_task(asyncio.to_thread(_search, self._order, self._name))
        try:
            reports = await self._catch_up()
        except BaseException:
            making.cancel()
            raise
        self._sampler = await making
        await asyncio.to_thread(self._order.recall, self._sampler, self._study, reports)

    async def _catch_up(self) -> dict[int, list[tuple[float, float]]]:
        """Read what is known of the study; gives what its ended trials reported, if that matters."""
        # Until then nobody may record anything: this process may be faster than the record of its own start.
        self._state = await (await self._engine.handle(self._name)).wait({"Running"})
        if self._state.attempt != self._attempt:
            raise SupersededError(f"this is attempt {self._attempt} of {self._name!r}; {self._state.attempt} runs")
        for event in await self._engine.history(self._state.uid):
            self._study.apply(event)
        if self._order.stopping is None:
            return {}
        # What a running trial has reported comes again when it is followed.
        ended = [trial for trial in self._study.trials.values() if trial.finished is not None]
        return {trial.number: await self._trials.reported(trial) for trial in ended}

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within it SIGTERM stops the study with its trials, and its timeout ends it well."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._interrupt)
        self._set_timer()
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            if self._timer is not None:
                self._timer.cancel()

    def _set_timer(self) -> None:
        """The study's time begins with its first trial: what its driver needs before that is not the user's."""
        timeout, first = self._order.rules.timeout, self._study.trials.get(0)
        if self._timer is None and timeout is not None and first is not None:
            left = max(0.0, first.started + timeout - time.time())
            self._timer = asyncio.get_running_loop().call_later(left, self._stop, "Timeout")

    def _interrupt(self) -> None:
        self._interrupted = True
        self._changed.set()

    def _stop(self, reason: str) -> None:
        self._study.stop(reason)
        self._changed.set()

    # ---------------------------------------------------------------- deciding

    async def _decide(self) -> Verdict | None:
        """Start trials while there is room, until the study is over or its job is to end."""
        while (verdict := self._study.verdict) is None:
            if self._interrupted:
                await self._leave()
                return None
            if self._study.ends_running:
                await self._trials.halt("prune", f"the study is over: {self._study.stopping}")
            elif self._suggested() and self._study.room > 0:
                await self._start()
                continue
            await self._changed.wait()
            self._changed.clear()
        return verdict

    async def _leave(self) -> None:
        """The study's job is to end: so are its trials. Those of a suspended study go on with it when it is resumed."""
        stop = (await self._engine.job(self._name)).stop
        if stop is None:
            _end_by_signal()  # Nobody stopped the study, only its driver: the next one goes on from here.
        cause = "suspend" if stop == "suspend" else "cancel"
        await self._trials.halt(cause, f"the study {self._name!r} was stopped")

    def _suggested(self) -> bool:
        """Whether the next trial's parameters are there. They are asked for ahead of need, so that a free slot does not
        wait for the algorithm; not with one trial at a time, which shall know of every one before it, and not where a
        trial goes on from one that must have ended.
        """
        number, config = self._study.next_number, self._order.config
        ahead = config.parallel_trials > 1 and not self._order.algorithm.hands_on
        wanted = ahead or self._study.room > 0
        if self._ahead is None and wanted and number < config.num_trials and not self._study.stopping:
            self._ahead = asyncio.create_task(asyncio.to_thread(self._sampler.ask, number, self._order.given(number)))
            self._ahead.add_done_callback(lambda _: self._changed.set())
        return self._ahead is not None and self._ahead.done()

    async def _start(self) -> None:
        """Start the next trial."""
        assert self._ahead is not None
        number, asked, self._ahead = self._study.next_number, self._ahead, None
        try:
            parameters = asked.result()
        except KfasyncError:
            raise
        except Exception as error:
            await self._fail(number, error)
            return
        if parameters is None:
            self._stop("Exhausted")
            return
        trial, parent = f"{self._name}-{number}", self._sampler.parent(number)
        await self._record(
            TrialStarted(
                **self._header(),
                number=number,
                trial=trial,
                parameters=parameters,
                notes=self._sampler.notes(number),
                parent="" if parent is None else self._study.trials[parent].name,
            )
        )
        self._set_timer()
        self._tasks.create_task(self._follow(self._study.trials[number]))

    async def _fail(self, number: int, error: Exception) -> None:
        """The algorithm broke down over a trial, whose number is used; it may well find the next one."""
        reason, message = "AlgorithmFailed", f"{type(error).__name__}: {error}"
        # In one step: the next driver must not find a trial without parameters to run.
        await self._record(
            TrialStarted(**self._header(), number=number, trial=f"{self._name}-{number}", parameters={}),
            TrialEnded(**self._header(), number=number, outcome=TrialState.FAILED, reason=reason, message=message),
        )

    async def _record(self, *events: TrialStarted | TrialEnded) -> None:
        """Record a decision, before it is carried out.

        What follows from it is decided meanwhile, and stands behind it in the journal's queue: a slot is not empty for
        one trip to the disk after the other. If the record fails, so does this driver, with all that it decided.
        """
        for event in events:
            self._study.apply(event)
        self._changed.set()
        if not await self._engine.record(*events):
            raise SupersededError(f"{self._name!r} is not this driver's any more")

    def _header(self) -> dict[str, Any]:
        state = self._state
        return {
            "place": state.place, "job": state.name, "uid": state.uid, "attempt": self._attempt, "time": time.time(),
        }  # fmt: skip

    # ---------------------------------------------------------------- following

    async def _follow(self, trial: TrialRecord, *, known: bool = False) -> None:
        """See a trial to its end, and record it."""
        ending = await self._trials.see(trial, known=known)
        while ending is not None and self._tries_again(trial, ending):
            trial = await self._retry(trial)
            ending = await self._trials.see(trial, known=False)
        if ending is not None:
            await self._conclude(trial, ending)

    def _tries_again(self, trial: TrialRecord, ending: Ending) -> bool:
        if self._interrupted or self._study.ends_running:
            return False
        return ending.reason in INFRASTRUCTURE and trial.retries < _RETRIES

    async def _retry(self, trial: TrialRecord) -> TrialRecord:
        retry = trial.retries + 1
        await self._record(
            TrialStarted(
                **self._header(),
                number=trial.number,
                trial=f"{self._name}-{trial.number}-r{retry}",
                parameters=trial.parameters,
                retry=retry,
                notes=trial.notes,
                parent=trial.parent,
            )
        )
        return self._study.trials[trial.number]

    def _judge(self, number: int, step: float, value: float) -> bool:
        self._sampler.report(number, step, value)
        return self._sampler.should_prune(number)

    async def _conclude(self, trial: TrialRecord, ending: Ending) -> None:
        number = trial.number
        await asyncio.to_thread(self._sampler.tell, number, self._order.learned(ending.metrics), ending.outcome)
        # What the early stopping rule noted while the trial ran; the algorithm's own notes came with its start.
        noted = {key: value for key, value in self._sampler.notes(number).items() if key not in trial.notes}
        ended = TrialEnded(
            **self._header(),
            number=number,
            outcome=ending.outcome,
            metrics={name: (each.min, each.max, each.latest) for name, each in ending.metrics.items()},
            reason="" if ending.outcome is TrialState.COMPLETE else ending.reason,
            message=ending.message,
            notes=noted,
        )
        await self._record(ended)


def _search(order: Order, name: str) -> AskTell:
    if isinstance(order.algorithm, PBT):
        return Population(order.space, order.objectives, order.algorithm)
    return Sampler(order.space, order.objectives, order.algorithm, order.stopping, name=name)
