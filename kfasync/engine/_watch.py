"""The watcher: records in the journal what the place tells, and says which jobs the place has lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from kfasync import log
from kfasync.backends.base import Backend, Synced
from kfasync.engine._backoff import Backoff
from kfasync.engine._batch import batches, closing
from kfasync.engine._bus import ENDS
from kfasync.errors import BackendError, JobExistsError, KfasyncError, TransitionError
from kfasync.events import Event, JobDeleted, JobFailed, JobSubmitted
from kfasync.state import JobState, Journal, Status

__all__ = ["SUBMIT_GRACE", "Watcher"]

#: Seconds that a recorded intent may stay without a job in the place before the job counts as lost: another process may
#: be between the two, building an image.
SUBMIT_GRACE: Final = 60.0

_log = log.get("engine")


class Watcher:
    """Consumes `Backend.watch` from the first need on, through lost connections, in one task.

    Args:
        backend: The place.
        journal: Where to record, unless the place records for itself.
        start: Starts the given watcher's `run` as a task that the engine owns.
        grace: See `SUBMIT_GRACE`.

    Attributes:
        submitting: Jobs whose creation is under way in this process; they can't be lost.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        start: Callable[[Watcher], asyncio.Task[None]],
        grace: float = SUBMIT_GRACE,
    ) -> None:
        self.submitting: set[str] = set()
        self._backend = backend
        self._journal = journal
        self._start = start
        self._grace = grace
        self._task: asyncio.Task[None] | None = None
        self._synced: asyncio.Future[None] | None = None
        self._recheck: asyncio.Timeout | None = None

    @property
    def live(self) -> bool:
        """Whether the journal holds the place's present state."""
        return self._task is not None and not self._task.done() and self._synced is not None and self._synced.done()

    def need(self) -> None:
        """Start watching, unless it is under way. After a failure that was told to the waiters: try anew."""
        if self._task is None or self._task.done():
            self._out_of_sync()
            self._task = self._start(self)

    async def synced(self) -> None:
        """Wait until the journal holds the place's present state.

        Raises:
            KfasyncError: The place can't be watched.
        """
        self.need()
        assert self._synced is not None
        await asyncio.shield(self._synced)

    def fail(self, error: KfasyncError) -> None:
        """Tell those who wait for `synced`."""
        if self._synced is not None and not self._synced.done():
            self._synced.set_exception(error)
            self._synced.exception()  # Retrieved: there may be nobody who waits.

    def doubt(self) -> None:
        """A job may or may not have been created: have the place tell, once its creator must have finished."""
        self.recheck(self._grace)

    def recheck(self, delay: float) -> None:
        """Have the place list its jobs again after so many seconds."""
        if self._recheck is not None:
            when = asyncio.get_running_loop().time() + delay
            planned = self._recheck.when()
            if planned is None or when < planned:
                self._recheck.reschedule(when)

    def _out_of_sync(self) -> None:
        if self._synced is None or self._synced.done():
            self._synced = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            BackendError: The place can't be watched, and trying again did not help.
        """
        backoff = Backoff(f"watch of {self._backend.place}")
        while True:
            self._out_of_sync()
            try:
                await self._watch(backoff)
            except BackendError as error:
                await backoff.pause(error)

    async def _watch(self, backoff: Backoff) -> None:
        # Only a job known before the place began to list can be missing from its list: an intent of this journal, and
        # later, when the same watch lists again after a lost connection, what the place itself has told of.
        suspects = {job.uid for job in await self._alive()}
        try:
            async with asyncio.timeout(None) as self._recheck, closing(batches(self._backend.watch())) as stream:
                async for batch in stream:
                    events: list[Event] = []
                    for item in batch:
                        if isinstance(item, Synced):
                            await self._record(events)
                            await self._reconcile(suspects - item.uids)
                            events, suspects = [], set(item.uids)
                            backoff.reset()
                        else:
                            events.append(item)
                            (suspects.discard if isinstance(item, ENDS) else suspects.add)(item.uid)
                    await self._record(events)
        except TimeoutError:
            if self._recheck is None or not self._recheck.expired():
                raise
        else:
            raise BackendError(f"the watch of {self._backend.place} ended by itself")
        finally:
            self._recheck = None

    async def _alive(self) -> list[JobState]:
        return await self._journal.jobs(self._backend.place, alive_only=True)

    async def _record(self, events: list[Event]) -> None:
        if self._backend.journals or not events:
            return
        for event in events:
            if isinstance(event, JobSubmitted):
                await self._retire_namesake(event)
        try:
            await self._journal.append(events)
        except (TransitionError, JobExistsError):
            # One bad event must not cost the others; the transaction took none of them.
            for event in events:
                await self._record_one(event)

    async def _record_one(self, event: Event) -> None:
        try:
            await self._journal.append([event])
        except (TransitionError, JobExistsError) as error:
            _log.warning(
                "event_refused", job=event.job, uid=event.uid, event_type=type(event).__name__, error=str(error)
            )

    async def _retire_namesake(self, event: JobSubmitted) -> None:
        """A place has one job of a name. Where the journal holds another, that one was deleted while nobody looked."""
        held = await self._journal.job(event.place, event.job)
        if held is None or held.uid == event.uid or held.uid in self.submitting:
            return
        if await self._journal.job_by_uid(event.uid) is None:
            deleted = JobDeleted(place=held.place, job=held.name, uid=held.uid, attempt=held.attempt, time=time.time())
            await self._journal.append([deleted])

    async def _reconcile(self, missing: Iterable[str]) -> None:
        missing = frozenset() if self._backend.journals else frozenset(missing) - self.submitting
        lost: list[Event] = []
        for job in await self._alive() if missing else ():
            if job.uid not in missing:
                continue
            age = time.time() - job.created
            if job.status is Status.CREATED and job.started is None and 0 <= age < self._grace:
                self.recheck(self._grace - age)
            else:
                lost.append(_lost(job))
        if lost:
            await self._journal.append(lost)
        assert self._synced is not None
        if not self._synced.done():
            self._synced.set_result(None)


def _lost(job: JobState) -> JobFailed:
    return JobFailed(
        place=job.place,
        job=job.name,
        uid=job.uid,
        attempt=job.attempt,
        time=time.time(),
        reason="Lost",
        message=f"{job.place} has no trace of the job: it was removed from outside, or its creation was interrupted",
    )
