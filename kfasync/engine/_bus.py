"""The bus: one task a process follows the journal and hands each event to the subscribers of its job."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from kfasync.engine._backoff import Backoff
from kfasync.errors import BackendError, KfasyncError
from kfasync.events import Event, JobCompleted, JobDeleted, JobFailed
from kfasync.state import Journal

__all__ = ["ENDS", "Listener", "Subscription", "Tail"]

#: After one of these nothing that a job does can follow.
ENDS = (JobCompleted, JobFailed, JobDeleted)

# Events: what one read of the journal brings; what a subscriber may leave unread before it has to read the journal.
_PAGE, _BACKLOG = 500, 1000


class Listener(Protocol):
    """What the tail calls, synchronously; it must neither block nor raise."""

    def push(self, event: Event) -> None:
        """An event was recorded."""

    def fail(self, error: KfasyncError) -> None:
        """Nothing more will come: the source of events is broken, or the engine was closed."""


class Tail:
    """Follows the journal of one place and fans its events out, in journal order.

    An event costs the tail one read, however many subscribers there are, and wakes only those of its job and those of
    the whole place.

    Attributes:
        cursor: The last event that was handed out.
    """

    def __init__(self, journal: Journal, place: str, cursor: int) -> None:
        self.cursor = cursor
        self._journal = journal
        self._place = place
        self._listeners: dict[str | None, set[Listener]] = {}

    async def run(self) -> None:
        """Follow the journal until cancelled.

        Raises:
            BackendError: The journal can't be read, and trying again did not help.
        """
        backoff = Backoff("journal")
        while True:
            try:
                await self._advance()
                backoff.reset()
            except BackendError as error:
                await backoff.pause(error)

    async def _advance(self) -> None:
        head, page = await self._journal.follow(self.cursor, place=self._place, limit=_PAGE)
        for event in page:
            self.cursor = event.cursor
            self._publish(event)
        if len(page) < _PAGE:
            # The rest up to the head, which was read before the page, belongs to other places.
            self.cursor = max(self.cursor, head)

    def _publish(self, event: Event) -> None:
        for key in {event.uid, None}:
            # A copy: a listener may add another while it is told.
            for listener in tuple(self._listeners.get(key, ())):
                listener.push(event)

    def fail(self, error: KfasyncError) -> None:
        """Tell every listener that nothing more will come."""
        for listener in [listener for group in self._listeners.values() for listener in group]:
            listener.fail(error)

    @contextlib.contextmanager
    def listening(self, listener: Listener, uid: str | None) -> Iterator[None]:
        """Have a listener told of every event behind `cursor`, of one job or (None) of the place."""
        self._listeners.setdefault(uid, set()).add(listener)
        try:
            yield
        finally:
            group = self._listeners[uid]
            group.discard(listener)
            if not group:
                del self._listeners[uid]

    @contextlib.contextmanager
    def subscribe(self, uid: str | None, since: int | None = None) -> Iterator[Subscription]:
        """Subscribe to one job or (None) to the place.

        Args:
            uid: The job.
            since: Cursor behind which to start; None for the tail's own: a row of the journal that is read after this
                call holds everything up to there.
        """
        subscription = Subscription(self._journal, self._place, uid, self.cursor if since is None else since)
        # Registered before it compares: what is recorded from here on reaches it either way.
        with self.listening(subscription, uid):
            if subscription.cursor < self.cursor:
                subscription.lag()
            yield subscription


class Subscription:
    """Events in journal order, none missing, none twice.

    It holds a bounded number of events. A subscriber that falls behind loses nothing and holds up nobody: it reads what
    it missed from the journal by its cursor.

    Attributes:
        uid: The job, or None for the place.
        cursor: The last event that was taken.
    """

    def __init__(self, journal: Journal, place: str, uid: str | None, cursor: int) -> None:
        self.uid = uid
        self.cursor = cursor
        self._journal = journal
        self._place = place
        self._queue: deque[Event] = deque()
        self._behind = False
        self._finished = False
        self._error: KfasyncError | None = None
        self._wake = asyncio.Event()

    def push(self, event: Event) -> None:
        """Called by the tail."""
        if self._behind or len(self._queue) >= _BACKLOG:
            self._behind = True
        else:
            self._queue.append(event)
        self._wake.set()

    def fail(self, error: KfasyncError) -> None:
        """Have `get` raise, after what was already there."""
        self._error = error
        self._wake.set()

    def lag(self) -> None:
        """Have the next `get` look into the journal."""
        self._behind = True
        self._wake.set()

    def finish(self) -> None:
        """Have `get` return None once everything that the journal holds now was taken."""
        self._finished = True
        self.lag()

    async def get(self) -> Event | None:
        """Take the next event; cancelling it loses none.

        Returns:
            The event, or None after `finish`.

        Raises:
            KfasyncError: Nothing more will come.
        """
        while True:
            while self._queue:
                event = self._queue.popleft()
                if event.cursor > self.cursor:
                    self.cursor = event.cursor
                    return event
            if self._behind:
                await self._catch_up()
            elif self._error is not None:
                # One error serves many waiters; without this each would add its own frames to it.
                raise self._error.with_traceback(None)
            elif self._finished:
                return None
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _catch_up(self) -> None:
        # Cleared before the read, so that what is published meanwhile is queued behind the page.
        self._behind = False
        try:
            page = await self._journal.events(self.cursor, place=self._place, uid=self.uid, limit=_PAGE)
        except BaseException:
            self._behind = True
            raise
        if len(page) == _PAGE:
            # There may be more between the page and what was queued: read on from the page's end.
            self._queue.clear()
            self._behind = True
        self._queue.extendleft(reversed(page))
