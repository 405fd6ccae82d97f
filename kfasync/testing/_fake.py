"""FakeBackend: the backend interface on a place in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

from kfasync.backends.base import Backend, LogLine, LogQuery, Submission, Synced
from kfasync.errors import BackendUnavailableError, ResultError
from kfasync.events import Event
from kfasync.jobs import Runtime, builtin_runtimes
from kfasync.testing._crash import Crashes
from kfasync.testing._inject import Inject, gap_line
from kfasync.testing._world import FakeWorld

if TYPE_CHECKING:
    from kfasync.jobs import JobSpec
    from kfasync.payload import Payload
    from kfasync.state import JobState, Journal

__all__ = ["FakeBackend", "FakeBackendConfig"]


@dataclass(frozen=True)
class FakeBackendConfig:
    """Give it to a client in place of a real backend's config.

    Attributes:
        world: The place; clients that are given the same one see the same jobs.
        crashes: Where the client dies, if it shall.

    Example:
        >>> from kfasync.trainer import AsyncTrainerClient  # doctest: +SKIP
        >>> world = FakeWorld(auto=True)  # doctest: +SKIP
        >>> client = AsyncTrainerClient(FakeBackendConfig(world))  # doctest: +SKIP
    """

    backend_path: ClassVar[str] = "kfasync.testing:FakeBackend"

    world: FakeWorld = field(default_factory=lambda: FakeWorld(auto=True))
    crashes: Crashes = field(default_factory=Crashes, compare=False)


class FakeBackend(Backend):
    """A backend for tests: jobs in memory on a virtual clock, scripted, with faults on request. Nothing is really run.

    A job does what `FakeWorld.script` says for its name, else what its function's `plays` decorator says, else it
    completes at once.

    Args:
        config: A `FakeBackendConfig`, or the `FakeWorld` alone; a new world by default.

    Attributes:
        world: The place; it lives on when this client dies.
        crashes: Where this client dies.

    Example:
        >>> fake = FakeBackend()
        >>> def train(rank):
        ...     yield 60
        ...     raise ValueError("diverged")
        >>> fake.world.script("demo", FakeScript(run=train))  # doctest: +SKIP
        >>> fake.inject.lost(JobFailed)  # doctest: +SKIP
        >>> await fake.advance(60)  # doctest: +SKIP
    """

    checkpoints = True

    def __init__(self, config: FakeBackendConfig | FakeWorld | None = None) -> None:
        if isinstance(config, FakeWorld):
            config = FakeBackendConfig(config)
        chosen = config or FakeBackendConfig(FakeWorld())
        self.world = chosen.world
        self.crashes = chosen.crashes

    @property
    def place(self) -> str:
        return self.world.place

    @property
    def inject(self) -> Inject:
        """Faults to come."""
        return self.world.inject

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass: everything that becomes due happens, in order."""
        await self.world.advance(seconds)

    async def open(self, journal: Journal) -> None:
        self.crashes.pass_by("open:before")
        # The engine opens its journal by itself, so the crash points are put around this instance's own method.
        journal.append = self.crashes.around(journal.append)  # type: ignore[method-assign, assignment]
        self.crashes.pass_by("open:after")

    async def aclose(self) -> None:
        """Nothing of this client stays in the place."""

    def check(self, spec: JobSpec, payload: Payload) -> None:
        """Everything is possible here."""

    @contextlib.contextmanager
    def _call(self, name: str) -> Iterator[None]:
        self.crashes.pass_by(f"{name}:before")
        self.inject.fail_call(name, done=False)
        yield
        self.crashes.pass_by(f"{name}:after")
        self.inject.fail_call(name, done=True)

    async def submit(self, submission: Submission) -> None:
        with self._call("submit"):
            self.world.create(submission)

    async def cancel(self, job: JobState, *, cause: str = "cancel", message: str = "") -> None:
        with self._call("cancel"):
            self._stop(job, cause)

    async def suspend(self, job: JobState) -> None:
        with self._call("suspend"):
            self._stop(job, "suspend")

    def _stop(self, job: JobState, cause: str) -> None:
        found = self.world.job(job.uid)
        if found is not None:
            found.stop(cause)

    async def resume(self, job: JobState) -> None:
        with self._call("resume"):
            found = self.world.job(job.uid)
            if found is not None:
                found.resume()

    async def delete(self, job: JobState) -> None:
        with self._call("delete"):
            self.world.remove(job.uid)

    async def results(self, job: JobState, rank: int | None = None) -> dict[int, Any]:
        with self._call("results"):
            found = self.world.job(job.uid)
            if found is None:
                raise ResultError(f"the place no longer has job {job.name!r}")
            return {each: value for each, value in found.results.items() if rank in (None, each)}

    async def files(self, job: JobState, node: int) -> Path:
        found = self.world.job(job.uid)
        if found is None:
            raise ResultError(f"the place no longer has job {job.name!r}")
        return found.directory(node)

    async def checkpoint(self, job: JobState) -> Path:
        found = self.world.job(job.uid)
        if found is None:
            raise ResultError(f"the place no longer has job {job.name!r}")
        return found.checkpoint

    async def runtimes(self) -> list[Runtime]:
        return builtin_runtimes()

    async def runtime_packages(self, runtime: Runtime) -> str:
        return f"{runtime.name}: nothing is installed in a fake place"

    async def watch(self) -> AsyncIterator[Event | Synced]:
        while True:
            await self.inject.reachable()
            feed = self.inject.connect()
            try:
                # Taken in one step with the connection: what happens from here on is in the feed.
                jobs = self.world.jobs()
                for event, seen in [(event, job.seen) for job in jobs for event in job.present()]:
                    self.crashes.pass_by("watch:before")
                    yield event
                    self.crashes.pass_by("watch:after")
                    seen.add(event.key)
                yield Synced(uids=frozenset(job.uid for job in jobs))
                while (live := await feed.queue.get()) is not None:
                    self.crashes.pass_by("watch:before")
                    yield live
                    self.crashes.pass_by("watch:after")
                    if (known := self.world.job(live.uid)) is not None:
                        known.seen.add(live.key)
            finally:
                self.inject.disconnect(feed)

    async def logs(self, job: JobState, query: LogQuery, done: asyncio.Event) -> AsyncIterator[LogLine]:
        found = self.world.job(job.uid)
        if found is None:
            return
        wanted = _Filter(query, found.attempt)
        at, skipped = 0, _untailed(found.lines, wanted, query.tail)
        yielded, fault = 0, self.inject.next_log_fault()
        while True:
            # Both before reading: what comes after the look below wakes the wait behind it.
            over, change = done.is_set(), self.world.next_change()
            while at < len(found.lines):
                line, at = found.lines[at], at + 1
                if at <= skipped or not wanted(line):
                    continue
                yield line
                yielded += 1
                if fault is not None and fault.after == yielded:
                    if fault.lose == 0:
                        raise BackendUnavailableError("the log stream was cut")
                    at += fault.lose
                    yield gap_line(line, fault.lose)
            if over or not query.follow:
                return
            await _either(done, change)


class _Filter:
    """Whether a line is one of those that a query asks for."""

    def __init__(self, query: LogQuery, attempt: int) -> None:
        self._query = query
        self._from = attempt if query.attempt is None else query.attempt
        self._to = query.attempt
        self._node = None if query.step is None else query.step.removeprefix("node-")

    def __call__(self, line: LogLine) -> bool:
        query, since = self._query, self._query.since
        if line.stream not in query.streams or line.attempt < self._from:
            return False
        if self._to is not None and line.attempt > self._to:
            return False
        if (self._node is not None and str(line.node) != self._node) or query.rank not in (None, line.rank):
            return False
        if isinstance(since, str):
            return int(line.cursor) > int(since)
        return since is None or line.time is None or line.time >= since


def _untailed(lines: list[LogLine], wanted: _Filter, tail: int | None) -> int:
    """How many lines are in front of the last ``tail`` wanted ones."""
    if tail is None:
        return 0
    found = [index for index, line in enumerate(lines) if wanted(line)]
    return len(lines) if tail == 0 else found[-tail] if len(found) > tail else 0


async def _either(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    async with anyio.create_task_group() as group:

        async def one(event: asyncio.Event) -> None:
            await event.wait()
            group.cancel_scope.cancel()

        for event in events:
            group.start_soon(one, event)
