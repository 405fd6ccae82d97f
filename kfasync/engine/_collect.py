"""The metric collector: reads what jobs print and report, and records the numbers as events.

It reads only while somebody consumes metrics or events. What nobody read while it happened is still in the job's log,
and is recorded when somebody asks. Several engines may read the same log: an event's key is its place in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from kfasync import log
from kfasync.backends.base import Backend, LogLine, LogQuery
from kfasync.engine._batch import batches, closing
from kfasync.engine._bus import ENDS, Subscription, Tail
from kfasync.engine._logs import read_log
from kfasync.errors import BackendError, KfasyncError
from kfasync.events import Event, JobStarted, MetricReported, ProgressReported
from kfasync.state import JobState, Journal, Status, parse_metrics, parse_report

__all__ = ["Collector"]

# Jobs whose reading position is remembered, so that a second reader of a long log need not record it again. Forgetting
# one costs time, not truth.
_REMEMBERED = 1000

_log = log.get("engine")

Start = Callable[[Callable[[], Awaitable[None]], Callable[[KfasyncError], None]], asyncio.Task[None]]
# The last position that was recorded, by attempt, rank and stream.
_Positions = dict[tuple[int, int, str], int]


class Collector:
    """Runs one reading task for each job that has consumers.

    Args:
        backend: Where the logs are.
        journal: Where the numbers go.
        tail: Tells which jobs start and which attempts are over.
        start: Starts a task that the engine owns; its second argument is told of the error that ended it.
    """

    def __init__(self, backend: Backend, journal: Journal, tail: Tail, start: Start) -> None:
        self._backend = backend
        self._journal = journal
        self._tail = tail
        self._start = start
        self._consumers: defaultdict[str | None, set[Subscription]] = defaultdict(set)
        self._ending: set[Subscription] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._positions: OrderedDict[str, _Positions] = OrderedDict()

    def push(self, event: Event) -> None:
        """Called by the tail: a job that starts is read if somebody wants it."""
        if isinstance(event, JobStarted) and (event.uid in self._consumers or None in self._consumers):
            self._collect(event.uid)

    def fail(self, error: KfasyncError) -> None:
        """Called by the tail; the consumers are told by it as well."""

    @contextlib.asynccontextmanager
    async def feeding(self, subscription: Subscription, *, until_read: bool = False) -> AsyncIterator[None]:
        """Collect while in this block, for a subscription to one job or to the place.

        Args:
            subscription: The consumer.
            until_read: Whether to finish the subscription once everything that the job will ever print was recorded.
        """
        uid = subscription.uid
        self._consumers[uid].add(subscription)
        if until_read:
            self._ending.add(subscription)
        try:
            if uid is not None:
                self._collect(uid)
            else:
                for job in await self._journal.jobs(self._backend.place, alive_only=True):
                    if job.status is Status.RUNNING:
                        self._collect(job.uid)
            yield
        finally:
            self._ending.discard(subscription)
            self._consumers[uid].discard(subscription)
            if not self._consumers[uid]:
                del self._consumers[uid]
                await self._retire()

    async def collect_now(self, state: JobState) -> None:
        """Record everything that the job has printed so far.

        A log that can't be read any more is no error: what was recorded before is all there is.
        """
        over = asyncio.Event()
        over.set()
        try:
            for attempt in range(1, state.attempt + 1):
                await self._read(state, attempt, over, follow=False)
        except BackendError as error:
            _log.warning("metrics_unread", job=state.name, uid=state.uid, error=str(error))

    async def _retire(self) -> None:
        """End the tasks that nobody needs any more, and see them ended."""
        if None in self._consumers:
            return
        # Out of the table at once: a consumer that comes while they end gets a task of its own.
        unwanted = [self._tasks.pop(uid) for uid in list(self._tasks) if uid not in self._consumers]
        for task in unwanted:
            task.cancel()
        if unwanted:
            await asyncio.wait(unwanted)

    def _collect(self, uid: str) -> None:
        if uid not in self._tasks:
            self._tasks[uid] = self._start(lambda: self._follow(uid), lambda error: self._failed(uid, error))

    def _failed(self, uid: str, error: KfasyncError) -> None:
        _log.warning("metrics_unread", uid=uid, error=str(error))
        for subscription in self._ending & self._consumers.get(uid, set()):
            subscription.fail(error)

    async def _follow(self, uid: str) -> None:
        attempts = _Attempts()
        try:
            with self._tail.listening(attempts, uid):
                state = await self._journal.job_by_uid(uid)
                if state is not None and not state.deleted:
                    attempts.know(state.attempt, ended=state.terminal)
                    while await attempts.next():
                        await self._read(state, attempts.reading, attempts.over, follow=True)
        finally:
            # In one step with telling the consumers: whoever comes later finds no task that has told already.
            if self._tasks.get(uid) is asyncio.current_task():
                del self._tasks[uid]
        for subscription in self._ending & self._consumers.get(uid, set()):
            subscription.finish()

    async def _read(self, state: JobState, attempt: int, over: asyncio.Event, *, follow: bool) -> None:
        query = LogQuery(step=None, follow=follow, attempt=attempt, streams=("stdout", "report"))
        positions = self._positions.setdefault(state.uid, {})
        self._positions.move_to_end(state.uid)
        if len(self._positions) > _REMEMBERED:
            self._positions.popitem(last=False)
        async with closing(batches(read_log(self._backend, state, query, over))) as stream:
            async for lines in stream:
                fresh = [line for line in lines if line.position > positions.get(_stream(line), -1)]
                events = [event for line in fresh for event in _parse(state, line)]
                if events:
                    await self._journal.append(events)
                positions.update((_stream(line), line.position) for line in fresh)


class _Attempts:
    """Which attempts a job has had and which one is being read; a listener of the tail."""

    def __init__(self) -> None:
        self.reading = 0
        self.over = asyncio.Event()
        self._latest = 1
        self._ended = False
        self._changed = asyncio.Event()

    def know(self, attempt: int, *, ended: bool) -> None:
        self._latest = max(self._latest, attempt)
        self._ended = self._ended or ended
        if self._ended or self._latest > self.reading:
            self._changed.set()
            self.over.set()

    def push(self, event: Event) -> None:
        self.know(event.attempt, ended=isinstance(event, ENDS))

    def fail(self, error: KfasyncError) -> None:
        self.know(1, ended=True)

    async def next(self) -> bool:
        """Go on to the next attempt when there is one; False when the job has ended and the last one was read."""
        while self._latest <= self.reading and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._latest <= self.reading:
            return False
        self.reading += 1
        self.over = asyncio.Event()
        if self._ended or self._latest > self.reading:
            self.over.set()
        return True


def _stream(line: LogLine) -> tuple[int, int, str]:
    return line.attempt, line.rank, line.stream


def _parse(state: JobState, line: LogLine) -> list[Event]:
    header: dict[str, Any] = {
        "place": state.place,
        "job": state.name,
        "uid": state.uid,
        "attempt": line.attempt,
        "time": time.time() if line.time is None else line.time,
        "node": line.node,
        "rank": line.rank,
    }
    at = line.position
    if line.stream == "report":
        header |= {"source": "report", "position": at}
        match parse_report(line.text):
            case ("metric", step, values):
                return [MetricReported(**header, step=step, values=values)]
            case ("progress", percent, remaining, message):
                return [ProgressReported(**header, percent=percent, remaining=remaining, message=message)]
    # Every rank of a data-parallel job prints the same numbers; rank 0 speaks for the group, as with Katib.
    elif line.stream == "stdout" and line.rank == 0:
        # No two have one position: a pair takes more than one byte of the line.
        return [
            MetricReported(**header, source="stdout", position=at + index, values=values)
            for index, values in enumerate(_reports(line.text))
        ]
    return []


def _reports(text: str) -> list[dict[str, float]]:
    """The metrics of a line, in order; a name that comes again begins another report."""
    reports: list[dict[str, float]] = []
    for name, value in parse_metrics(text):
        if not reports or name in reports[-1]:
            reports.append({})
        reports[-1][name] = value
    return reports
