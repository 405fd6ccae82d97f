"""Engine: jobs of one place, from one event loop. The shell around the parts; it decides nothing about jobs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kfasync import log
from kfasync.backends.base import Backend, Submission
from kfasync.engine._backoff import UNDECIDED, insist
from kfasync.engine._core import Core
from kfasync.engine._handle import JobHandle
from kfasync.errors import (
    ClientClosedError,
    JobExistsError,
    KfasyncError,
    UnsupportedError,
    WrongLoopError,
)
from kfasync.events import Event, JobDeleted, JobSubmitted
from kfasync.state import JobState, Journal, MetricSummary, Reported, Status

if TYPE_CHECKING:
    from kfasync.jobs import JobSpec, Runtime
    from kfasync.payload import Payload

__all__ = ["Engine"]

_log = log.get("engine")

# Jobs whose reports are read at once. It bounds how long others wait for the journal's thread: some 20 ms.
_PAGE = 100


class Engine:
    """Submits, follows and controls the jobs of one place.

    It opens itself at first use and then belongs to that event loop. Every background task lives in one task group
    inside one root task, which ends with `aclose`. Jobs go on without it.

    Args:
        backend: The place; opened and closed by the engine.
        journal_path: The journal's file.

    Example:
        >>> async with Engine(backend, path) as engine:  # doctest: +SKIP
        ...     handle = await engine.submit(spec, payload)
        ...     await handle.wait()
    """

    def __init__(self, backend: Backend, journal_path: Path) -> None:
        self._backend = backend
        self._journal_path = journal_path
        self._loop: asyncio.AbstractEventLoop | None = None
        # More than one only while the one before the last still closes.
        self._roots: set[asyncio.Task[None]] = set()
        self._opened: asyncio.Future[Core] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End everything of this engine; jobs go on. Who still waits gets `ClientClosedError`. May be repeated."""
        self._check_loop()
        self._closed = True
        for root in self._roots:
            root.cancel()
        if self._roots:
            await asyncio.wait(self._roots)

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise WrongLoopError(
                "this client was first used on another event loop: use one client for each loop, or the blocking client"
            )

    async def _ready(self) -> Core:
        self._check_loop()
        if self._closed:
            raise ClientClosedError("the client was closed")
        if self._opened is None or _useless(self._opened):
            self._loop = asyncio.get_running_loop()
            opened = self._opened = self._loop.create_future()
            before = set(self._roots)
            for root in before:
                root.cancel()
            root = self._loop.create_task(self._run(opened, before), name="kfasync-engine")
            self._roots.add(root)
            root.add_done_callback(self._roots.discard)
            root.add_done_callback(lambda root: _settle(opened, root))
        # Shielded: one caller that gives up must not end the opening for the others.
        return await asyncio.shield(self._opened)

    async def _run(self, opened: asyncio.Future[Core], before: set[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        async with contextlib.AsyncExitStack() as stack:
            journal = await Journal.open(self._journal_path)
            stack.push_async_callback(journal.aclose)
            # Before the opening: a backend that got half-way must let go, too.
            stack.push_async_callback(self._backend.aclose)
            await self._backend.open(journal)
            head = await journal.head()
            async with asyncio.TaskGroup() as group:
                core = Core(self._backend, journal, group, head)
                opened.set_result(core)
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    # Before the group ends its tasks: who waits must learn of the closing, not of their cancellation.
                    core.close()

    async def prepare(self) -> None:
        """A submit is about to come: what it will wait for may begin while the job is still being described."""
        (await self._ready()).backend.prepare()

    async def check(self, spec: JobSpec, payload: Payload) -> None:
        """Raise what `submit` would raise about the job itself, before anything is created.

        Raises:
            UnsupportedError: The place can't run it.
        """
        _check((await self._ready()).backend, spec, payload)

    async def submit(self, spec: JobSpec, payload: Payload, secrets: Mapping[str, str] | None = None) -> JobHandle:
        """Have a job run.

        Called again with the same name and an equal spec, also by another process, it gives the job that is there.

        Args:
            spec: The job.
            payload: What it runs.
            secrets: Values of the spec's `SecretRef` variables, by name.

        Raises:
            UnsupportedError: The place can't run it.
            JobExistsError: The name belongs to a job with another spec.
            BackendError: The place refused it; nothing is left behind. After `BackendUnavailableError` and
                `BackendTimeoutError` the job may exist: submit again to find out.
        """
        core = await self._ready()
        _check(core.backend, spec, payload)
        submission = Submission(uid=uuid.uuid4().hex, spec=spec, payload=payload, secrets=dict(secrets or {}))
        core.need_events()
        if not core.backend.journals:
            return JobHandle(self._ready, spec.name, await _submit_recorded(core, submission))
        await insist("submit", lambda: core.backend.submit(submission))
        state = await core.journal.job(core.place, spec.name)
        # None: somebody deleted it before we looked.
        return JobHandle(self._ready, spec.name, submission.uid if state is None else state.uid)

    async def events(self, since: int | None = None, job: str | None = None) -> AsyncGenerator[Event, None]:
        """What happens, in the journal's order, none missing and none twice.

        Args:
            since: The cursor of an event, to go on behind it; 0 for everything from the beginning; None for what
                happens from the first step of the iteration on.
            job: Only this job; the stream ends when it is deleted. None for all jobs of the place.

        Raises:
            JobNotFoundError: There is no such job.
            BackendError: The place can't be watched any more.
        """
        core = await self._ready()
        if since is None:
            since = await core.journal.head()
        uid = None if job is None else (await core.named(job)).uid
        with core.tail.subscribe(uid, since) as events:
            core.need_events()
            async with core.collector.feeding(events):
                while (event := await events.get()) is not None:
                    yield event
                    if uid is not None and isinstance(event, JobDeleted):
                        return

    async def declare(self, spec: JobSpec) -> JobState:
        """Record a job that the place does not run, because its caller does, such as a study that is asked and told.

        Returns:
            The job, or the one that is there with this name and an equal spec.

        Raises:
            JobExistsError: The name belongs to a job with another spec.
        """
        core = await self._ready()
        submitted = JobSubmitted(
            place=core.place, job=spec.name, uid=uuid.uuid4().hex, time=time.time(), spec=spec.to_dict(),
            digest=spec.digest,
        )  # fmt: skip
        await core.journal.append([submitted])
        return await core.named(spec.name)

    async def record(self, *events: Event) -> bool:
        """Record facts about jobs that their place does not know of, such as the trials of a study.

        Returns:
            Whether all of them are news; False where one was recorded before, or its job has gone on to another attempt
            or to its end.

        Raises:
            TransitionError: One can't follow its job's history.
        """
        return all(recorded is not None for recorded in await (await self._ready()).journal.append(events))

    async def history(self, uid: str) -> list[Event]:
        """Everything that was recorded of a job so far."""
        journal, events = (await self._ready()).journal, list[Event]()
        while page := await journal.events(events[-1].cursor if events else 0, uid=uid):
            events += page
        return events

    async def job(self, name: str) -> JobState:
        """What is true of a job.

        Raises:
            JobNotFoundError: There is no such job.
        """
        return await (await self._ready()).named(name)

    async def jobs(self) -> list[JobState]:
        """The jobs of the place, the oldest first."""
        core = await self._ready()
        return await core.read(lambda: core.journal.jobs(core.place))

    async def handle(self, name: str) -> JobHandle:
        """A handle on an existing job, whoever submitted it.

        Raises:
            JobNotFoundError: There is no such job.
        """
        return JobHandle(self._ready, name, (await self.job(name)).uid)

    async def delete(self, name: str) -> None:
        """Delete a job and everything of it; its name is free when this returns.

        Raises:
            JobNotFoundError: There is no such job.
        """
        await (await self.handle(name)).delete()

    async def job_metrics(self, name: str) -> Mapping[str, MetricSummary]:
        """Smallest, largest and latest value of each metric, with everything that the job has reported so far.

        Raises:
            JobNotFoundError: There is no such job.
        """
        return await self.metrics_of(await (await self._ready()).named(name))

    async def metrics_of(self, state: JobState) -> Mapping[str, MetricSummary]:
        """As `job_metrics`, of the job that a state tells of, also when another one has its name by now."""
        core = await self._ready()
        await core.collector.collect_now(state)
        return (await core.known(state.uid, state.name)).metrics

    async def reports(self, names: Sequence[str]) -> list[Reported]:
        """What some jobs have reported, each job's reports in order.

        Only what somebody has read from their output is known: `job_metrics` reads it, and the driver of a study does
        for each trial that has ended. A job that is not there has reported nothing.
        """
        core = await self._ready()
        found: list[Reported] = []
        for start in range(0, len(names), _PAGE):
            found += await core.journal.reports(core.place, names[start : start + _PAGE])
        return found

    async def runtimes(self) -> list[Runtime]:
        """The training runtimes of the place."""
        return await (await self._ready()).backend.runtimes()

    async def runtime_packages(self, runtime: Runtime) -> str:
        """Python version, installed packages and devices of a runtime."""
        return await (await self._ready()).backend.runtime_packages(runtime)


def _check(backend: Backend, spec: JobSpec, payload: Payload) -> None:
    if spec.checkpoint_from is not None and not backend.checkpoints:
        raise UnsupportedError(
            f"checkpoint_from={spec.checkpoint_from!r}: in this place a job can't start with another one's checkpoint; "
            "leave it out, or use the local backend"
        )
    backend.check(spec, payload)


def _useless(opened: asyncio.Future[Core]) -> bool:
    """Whether the opening failed, or somebody has removed the journal since: what comes needs another."""
    return opened.done() and (opened.exception() is not None or opened.result().journal.removed)


def _settle(opened: asyncio.Future[Core], root: asyncio.Task[None]) -> None:
    """Pass on what ended the root task before it was open; log what ended it later, which is a defect."""
    error = None if root.cancelled() else root.exception()
    if opened.done():
        if error is not None:
            _log.error("engine_died", exc_info=error)
    else:
        opened.set_exception(error or ClientClosedError("the client was closed while it opened"))
        opened.exception()  # Retrieved: the callers may have given up.


async def _submit_recorded(core: Core, submission: Submission) -> str:
    """Record the intent, then create the job, where the place keeps no journal; gives the job's uid.

    Cut at any point, by a cancellation or a crash, it leaves a recorded intent: the next look at the place finds the
    job, or says that it was lost.
    """
    # The name may belong to a job that another machine's client created.
    await core.watcher.synced()
    spec, uid = submission.spec, submission.uid
    core.watcher.submitting.add(uid)
    try:
        digest = spec.digest
        submitted = JobSubmitted(
            place=core.place, job=spec.name, uid=uid, time=time.time(), spec=spec.to_dict(), digest=digest
        )
        [recorded] = await core.journal.append([submitted])
        if recorded is None:
            state = await core.named(spec.name)
            if state.status is not Status.CREATED or state.stop is not None:
                return state.uid
            # An earlier submit was perhaps cut before it reached the place; a place ignores a job that it has.
            submission = dataclasses.replace(submission, uid=state.uid)
        await _create(core, submission)
        return submission.uid
    finally:
        core.watcher.submitting.discard(uid)


async def _create(core: Core, submission: Submission) -> None:
    settled = False
    try:
        await insist("submit", lambda: core.backend.submit(submission))
        settled = True
    except KfasyncError as error:
        if not isinstance(error, UNDECIDED):
            name, uid = submission.spec.name, submission.uid
            await core.journal.append([JobDeleted(place=core.place, job=name, uid=uid, time=time.time())])
            settled = True
        if isinstance(error, JobExistsError):
            # The place has a job of this name that we do not know of yet.
            core.watcher.recheck(0)
        raise
    finally:
        if not settled:
            core.watcher.doubt()
