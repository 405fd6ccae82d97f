"""The journal: every event of every job in one SQLite file, its order the order that everybody sees.

One thread owns the connection and serves a queue, so that a slow disk never holds up a loop; what queued up while it
worked goes into one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self, TypeVar

from kfasync.errors import BackendError, JournalError
from kfasync.events import Event
from kfasync.inotify import FileWatch
from kfasync.state._job import JobState
from kfasync.state._metrics import Reported
from kfasync.state._schema import notify_path, translate
from kfasync.state._store import Store

__all__ = ["Journal"]

T = TypeVar("T")

# Requests in one transaction. It bounds how long the first of them waits for its answer: some 50 ms.
_BATCH = 500


class _Request:
    """Something to do on the journal's thread, and the future of the loop that waits for it."""

    def __init__(self, call: Callable[[Store], Any] | None, *, writes: bool = False) -> None:
        self.writes = writes
        self.error: BaseException | None = None
        self._call = call
        self._value: Any = None
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def run(self, store: Store) -> None:
        """Do it, on the journal's thread."""
        try:
            with translate(store.path):
                self._value = self._call(store) if self._call else None
        except Exception as error:
            # Whatever it is, it belongs to the caller; the thread goes on for the others.
            self.error = error

    def answer(self) -> None:
        """Tell the loop, unless it is gone; nobody waits there then."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self._value)


class Journal:
    """The events of all jobs, and the state that they add up to. Open it with `open`.

    It may be used from any loop and any thread of the process that opened it; in a forked child it refuses to work.
    A cancelled call loses nothing: an `append` that was cut is recorded or not, and repeating it is a no-op if it was.

    Example:
        >>> journal = await Journal.open(Path("journal.sqlite3"))  # doctest: +SKIP
        >>> [recorded] = await journal.append([event])  # doctest: +SKIP
        >>> recorded.cursor  # doctest: +SKIP
        1
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._path = path
        self._inode = 0
        self._pid = os.getpid()
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        # Guards _closed, _ended, _closers and _watches, and that nothing is queued behind the end.
        self._lock = threading.Lock()
        self._closed = False
        self._ended = False
        self._closers: list[_Request] = []
        self._watches: dict[asyncio.AbstractEventLoop, FileWatch] = {}
        self._head = 0
        # A daemon: the journal alone keeps no process alive. What was awaited is on disk.
        self._thread = threading.Thread(target=self._run, args=(read_only,), name="kfasync-journal", daemon=True)

    @classmethod
    async def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Open a journal; any number of processes may do so at once, also for the first time.

        Args:
            path: The file. It and its directory are made when missing, for their owner only.
            read_only: Refuse to append; the file must exist then.

        Raises:
            JournalError: It can't be opened, or lies on a network filesystem.
            IncompatibleVersionError: A newer kfasync wrote it.
        """
        journal = cls(Path(path).absolute(), read_only=read_only)
        # Queued before the thread starts, so that it is answered with whatever is wrong with the file.
        opened = _Request(journal._look)
        journal._put(opened)
        journal._thread.start()
        try:
            await opened.future
            # While it is open no other file can be given its number.
            journal._inode = os.stat(journal._path).st_ino
        except BaseException:
            await asyncio.shield(journal.aclose())
            raise
        return journal

    @property
    def removed(self) -> bool:
        """Whether the file was removed or replaced since it was opened: what is written is lost then."""
        try:
            return os.stat(self._path).st_ino != self._inode
        except OSError:
            return True

    async def append(self, events: Sequence[Event]) -> list[Event | None]:
        """Record events, all of them or none.

        Args:
            events: Observed facts, in order.

        Returns:
            For each event what was recorded, with its cursor; None where it was known already or can't matter any more.

        Raises:
            JobExistsError: A JobSubmitted takes the name of a job with another digest. (With the same digest it is that
                job, and None.)
            TransitionError: An event can't follow its job's history.
            JournalError: Nothing could be written, for instance because the disk is full; it may be tried again.
        """
        group = tuple(events)
        return await self._ask(lambda store: store.append(group), writes=True)

    async def job(self, place: str, name: str) -> JobState | None:
        """The job that has this name in this place, None when there is none or it was deleted."""
        return await self._ask(lambda store: store.named(place, name))

    async def job_by_uid(self, uid: str) -> JobState | None:
        """A job by its identity, also a deleted one."""
        return await self._ask(lambda store: store.state(uid))

    async def jobs(self, place: str | None = None, *, alive_only: bool = False) -> list[JobState]:
        """Jobs that are not deleted, oldest first.

        Args:
            place: Only those of one place.
            alive_only: Only those that have not ended.
        """
        return await self._ask(lambda store: store.states(place, alive_only))

    async def events(
        self, since: int = 0, *, place: str | None = None, uid: str | None = None, limit: int = 1000
    ) -> list[Event]:
        """Recorded events behind a cursor, in order.

        Args:
            since: The cursor of the last event already known, 0 for none.
            place: Only those of one place.
            uid: Only those of one job.
            limit: At most so many; go on from the last one's cursor for more.
        """
        return await self._ask(lambda store: store.events(since, place, uid, limit))

    async def reports(self, place: str, jobs: Sequence[str]) -> list[Reported]:
        """Every report of numbers that was recorded of some jobs of a place, in order; deleted ones have none."""
        return await self._ask(lambda store: store.reports(place, jobs))

    async def head(self) -> int:
        """The cursor of the last event, 0 for an empty journal."""
        return await self._ask(self._look)

    async def changed(self, after: int) -> int:
        """Wait until there is an event behind a cursor, whichever process records it. Nothing polls.

        Args:
            after: The cursor of the last event already known.

        Returns:
            The cursor of the last event.
        """
        watch = await self._follow()
        while self._head <= after:
            if await watch.wait():
                self._look_soon()
            self._check()
        return self._head

    async def follow(self, after: int, *, place: str, limit: int) -> tuple[int, list[Event]]:
        """`changed` and `events` in one trip to the journal's thread, for whoever wants to know at once.

        Args:
            after: The cursor of the last event already known.
            place: Only events of one place.
            limit: At most so many.

        Returns:
            The cursor of the last event, and the events of the place up to there; perhaps none.
        """
        watch = await self._follow()
        while True:
            if self._head > after or await watch.wait():
                try:
                    head, page = await self._ask(
                        lambda store: (self._look(store), store.events(after, place, None, limit))
                    )
                except BackendError:
                    watch.wake(notify_path(self._path))  # Seen, but not read: the next call must look again.
                    raise
                if head > after:
                    return head, page
            self._check()

    async def deleted(self, before: float) -> list[str]:
        """Uids of the jobs that were deleted before a Unix time, for `forget`."""
        return await self._ask(lambda store: store.deleted(before))

    async def forget(self, uids: Iterable[str]) -> None:
        """Drop deleted jobs and their events for ever; jobs that are not deleted stay."""
        gone = tuple(uids)
        await self._ask(lambda store: store.forget(gone), writes=True)

    async def aclose(self) -> None:
        """Finish what was asked for, then release the file and the thread. Safe to call twice."""
        if os.getpid() != self._pid:
            return
        ended = _Request(None)
        with self._lock:
            watches, self._watches = self._watches, {}
            if not self._closed:
                self._closed = True
                self._queue.put(None)
            if self._ended:
                ended.future.set_result(None)
            self._closers.append(ended)
        for loop, watch in watches.items():
            _release(loop, watch)
        await ended.future
        # It has nothing left to do but to return.
        self._thread.join()

    # ---------------------------------------------------------------- the loops' side

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise JournalError("this journal was opened before a fork: open another one in the child")
        if self._closed:
            raise JournalError(f"the journal {self._path} is closed")

    def _put(self, request: _Request) -> None:
        # Before the lock: in a forked child nobody may be left to release it.
        self._check()
        with self._lock:
            self._check()
            self._queue.put(request)

    def _look_soon(self) -> None:
        """Have the thread look for events of other processes, and wake all who wait for them.

        Nobody awaits it: if the waiter that saw the change is cancelled now, the others are woken all the same.
        """
        request = _Request(self._look)
        request.future.add_done_callback(lambda future: future.exception())
        self._put(request)

    async def _ask(self, call: Callable[[Store], T], *, writes: bool = False) -> T:
        request = _Request(call, writes=writes)
        self._put(request)
        result: T = await request.future
        return result

    async def _follow(self) -> FileWatch:
        """The watch of the notify file on this loop; one for all who wait there."""
        self._check()
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is not None:
            return watch
        watch = FileWatch()
        try:
            with translate(self._path):
                # Open until aclose: closing an inotify descriptor can take the kernel 15 ms.
                await watch.__aenter__()
                watch.add(notify_path(self._path))
            with self._lock:
                self._check()
                gone = {other: self._watches.pop(other) for other in tuple(self._watches) if other.is_closed()}
                self._watches[loop] = watch
        except BaseException:
            watch.close()
            raise
        for other, old in gone.items():
            _release(other, old)
        # For what was recorded before the watch began; what comes later, it tells.
        self._look_soon()
        return watch

    # ---------------------------------------------------------------- the thread's side

    def _look(self, store: Store) -> int:
        head = store.head()
        if head > self._head:
            self._head = head
            with self._lock:
                watches = tuple(self._watches.items())
            for loop, watch in watches:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(watch.wake)
        return head

    def _run(self, read_only: bool) -> None:
        # The connection lives in this frame only: a forked child, which must not touch it, can't reach it.
        batch: list[_Request] = []
        error: BaseException = JournalError(f"the journal {self._path} was closed")
        try:
            with contextlib.closing(Store(self._path, read_only=read_only)) as store:
                while batch := self._take():
                    self._serve(store, batch)
        except BackendError as failure:
            error = failure
        finally:
            self._end(batch, error)

    def _take(self) -> list[_Request]:
        """What is queued, waiting for the first; empty at the end."""
        batch: list[_Request] = []
        request = self._queue.get()
        with contextlib.suppress(Empty):
            while request is not None:
                batch.append(request)
                if len(batch) == _BATCH:
                    return batch
                request = self._queue.get_nowait()
            if batch:
                # Serve them first; the end is met again by the next call.
                self._queue.put(None)
        return batch

    def _serve(self, store: Store, batch: list[_Request]) -> None:
        writes = [request for request in batch if request.writes]
        reads = [request for request in batch if not request.writes]
        if writes:
            try:
                with store.writing():
                    for request in writes:
                        request.run(store)
                self._look(store)
            except BackendError as error:
                for request in writes:
                    request.error = request.error or error
        for request in reads:
            request.run(store)
        for request in batch:
            request.answer()

    def _end(self, batch: list[_Request], error: BaseException) -> None:
        with self._lock:
            self._closed = self._ended = True
            waiting, closers = [*batch], [*self._closers]
            with contextlib.suppress(Empty):
                while True:
                    request = self._queue.get_nowait()
                    if request is not None:
                        waiting.append(request)
        for request in waiting:
            request.error = error
        for request in [*waiting, *closers]:
            request.answer()


def _release(loop: asyncio.AbstractEventLoop, watch: FileWatch) -> None:
    """Close a watch, on its own loop while that lives, and let those who wait on it see that the journal is closed."""

    def release() -> None:
        watch.wake()
        watch.close()

    if loop is asyncio.get_running_loop():
        release()
    elif loop.is_closed():
        watch.close()
    else:
        loop.call_soon_threadsafe(release)
