"""What an open engine is made of: the parts that handles use, and the tasks that they run in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kfasync import log
from kfasync.backends.base import Backend
from kfasync.engine._bus import Tail
from kfasync.engine._collect import Collector
from kfasync.engine._watch import Watcher
from kfasync.errors import BackendError, ClientClosedError, JobNotFoundError, KfasyncError
from kfasync.state import JobState, Journal

__all__ = ["Core"]

_log = log.get("engine")


class Core:
    """The parts of one open engine.

    Args:
        backend: The place, open.
        journal: The journal, open.
        group: Owns every background task.
        head: The journal's last cursor.
    """

    def __init__(self, backend: Backend, journal: Journal, group: asyncio.TaskGroup, head: int) -> None:
        self.backend = backend
        self.journal = journal
        self._group = group
        self.tail = Tail(journal, backend.place, head)
        self.watcher = Watcher(backend, journal, lambda watcher: self._start(watcher.run, self.fail))
        self.collector = Collector(backend, journal, self.tail, self._start)
        self._closed = False
        self._following: asyncio.Task[None] | None = None

    @property
    def place(self) -> str:
        return self.backend.place

    def need_events(self) -> None:
        """See that events arrive: the place is watched and the journal followed from the first need on."""
        if self._following is None or self._following.done():
            self._following = self._start(self._follow, self.fail)
        self.watcher.need()

    async def _follow(self) -> None:
        with self.tail.listening(self.collector, None):
            await self.tail.run()

    def close(self) -> None:
        """Tell everybody who waits, and start nothing any more."""
        self._closed = True
        removed = self.journal.removed
        self.fail(
            BackendError(f"the journal of {self.place} was removed, and with it its jobs") if removed else _closed()
        )

    def fail(self, error: KfasyncError) -> None:
        """Tell everybody who waits that nothing more will come."""
        self.watcher.fail(error)
        self.tail.fail(error)

    def _start(self, work: Callable[[], Awaitable[None]], failed: Callable[[KfasyncError], None]) -> asyncio.Task[None]:
        if self._closed:
            raise _closed()
        return self._group.create_task(self._guard(work, failed), name="kfasync-part")

    async def _guard(self, work: Callable[[], Awaitable[None]], failed: Callable[[KfasyncError], None]) -> None:
        try:
            await work()
        except KfasyncError as error:
            failed(error)
        except Exception as error:  # A defect in a backend must reach those who wait: else they wait for ever.
            _log.exception("defect")
            wrapped = BackendError(f"{self.place} broke: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            failed(wrapped)

    async def read(self, query: Callable[[], Awaitable[list[JobState]]]) -> list[JobState]:
        """What the journal says, when the live source has told all that it knows.

        A place that records for itself is asked only where the journal knows a job that has not ended: a mere listing
        starts no supervisor.
        """
        if not self.backend.journals:
            await self.watcher.synced()
        states = await query()
        if not self.watcher.live and any(not state.terminal for state in states):
            await self.watcher.synced()
            states = await query()
        return states

    async def named(self, name: str) -> JobState:
        """The job that has this name now.

        Raises:
            JobNotFoundError: There is none.
        """

        async def query() -> list[JobState]:
            state = await self.journal.job(self.place, name)
            return [] if state is None else [state]

        for state in await self.read(query):
            return state
        raise JobNotFoundError(name, self.place)

    async def known(self, uid: str, name: str) -> JobState:
        """The job of this identity as the journal has it.

        Raises:
            JobNotFoundError: It was deleted.
        """
        state = await self.journal.job_by_uid(uid)
        if state is None or state.deleted:
            raise JobNotFoundError(name, self.place)
        return state


def _closed() -> ClientClosedError:
    return ClientClosedError("the client was closed")
