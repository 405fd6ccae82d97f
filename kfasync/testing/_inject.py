"""Faults between a fake place and its clients, each used up by happening."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from kfasync.backends.base import LogLine
from kfasync.errors import BackendTimeoutError, BackendUnavailableError, KfasyncError
from kfasync.events import Event
from kfasync.testing._clock import VirtualClock

__all__ = ["Feed", "Inject"]

#: Seconds after which a client of the place notices by other means that an event was never sent.
SECOND_SIGNAL = 5.0


class Feed:
    """One client's connection to the place's events; ``None`` in it is the connection's end."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.held: list[Event] = []

    def put(self, event: Event) -> None:
        self.queue.put_nowait(event)
        self.release()

    def release(self) -> None:
        for overtaken in self.held:
            self.queue.put_nowait(overtaken)
        self.held.clear()

    def cut(self) -> None:
        self.held.clear()
        self.queue.put_nowait(None)


@dataclass
class _Rule:
    """What to do with the next so many events of a kind."""

    kind: type[Event]
    times: int
    act: Callable[[Feed, Event], None]


@dataclass
class _CallRule:
    call: str
    times: int
    error: KfasyncError
    done: bool


@dataclass
class LogFault:
    """What befalls a log stream: after so many lines it breaks (``lose`` is 0), or the place has lost the next ones."""

    after: int
    lose: int


@dataclass
class Inject:
    """Faults to come: ``fake.inject.lost(JobCompleted)`` and so on. All of them are off until asked for.

    Faults of events apply to each client's connection on its own.
    """

    clock: VirtualClock
    _feeds: list[Feed] = field(default_factory=list)
    _events: list[_Rule] = field(default_factory=list)
    _calls: list[_CallRule] = field(default_factory=list)
    _logs: list[LogFault] = field(default_factory=list)
    _reachable: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._reachable.set()

    def late(self, kind: type[Event], seconds: float, *, times: int = 1) -> None:
        """The next event of this kind arrives so many virtual seconds late, behind what happens meanwhile."""

        def act(feed: Feed, event: Event) -> None:
            self.clock.call_later(seconds, lambda: feed.put(event))

        self._events.append(_Rule(kind, times, act))

    def lost(self, kind: type[Event], *, times: int = 1) -> None:
        """The next event of this kind is never sent; the client looks again 5 virtual seconds later."""

        def act(feed: Feed, event: Event) -> None:
            self.clock.call_later(SECOND_SIGNAL, feed.cut)

        self._events.append(_Rule(kind, times, act))

    def repeated(self, kind: type[Event], *, times: int = 1) -> None:
        """The next event of this kind arrives twice."""

        def act(feed: Feed, event: Event) -> None:
            feed.put(event)
            feed.put(event)

        self._events.append(_Rule(kind, times, act))

    def reordered(self, kind: type[Event], *, times: int = 1) -> None:
        """The next event of this kind arrives behind the one that follows it (or 5 s late, where none follows)."""

        def act(feed: Feed, event: Event) -> None:
            feed.held.append(event)
            self.clock.call_later(SECOND_SIGNAL, feed.release)

        self._events.append(_Rule(kind, times, act))

    def cut(self, outage: float = 0.0) -> None:
        """Cut every connection now.

        Args:
            outage: Virtual seconds during which the place can't be reached: calls raise `BackendUnavailableError`.
        """
        if outage > 0:
            self._reachable.clear()
            self.clock.call_later(outage, self._reachable.set)
        for feed in self._feeds:
            feed.cut()

    def cut_logs(self, after: int) -> None:
        """The next log stream breaks with `BackendUnavailableError` behind so many lines; their cursors still hold."""
        self._logs.append(LogFault(after, 0))

    def lose_lines(self, after: int, count: int) -> None:
        """Behind so many lines of the next log stream, the place has lost some: a ``gap`` line stands for them."""
        self._logs.append(LogFault(after, count))

    def refuse(self, call: str, error: KfasyncError, *, times: int = 1) -> None:
        """The next call fails and nothing happens in the place.

        Args:
            call: ``submit``, ``cancel``, ``suspend``, ``resume``, ``delete`` or ``results``.
            error: What the backend raises.
            times: How many calls.
        """
        self._calls.append(_CallRule(call, times, error, done=False))

    def lose_answer(self, call: str, *, times: int = 1) -> None:
        """The place carries the next call out, but the client gets a `BackendTimeoutError`."""
        self._calls.append(_CallRule(call, times, BackendTimeoutError(f"{call}: no answer in time"), done=True))

    def deliver(self, event: Event) -> None:
        """Send an event to every connected client, through whatever fault is due."""
        rule = next((r for r in self._events if isinstance(event, r.kind)), None)
        if rule is None or not self._feeds or not self._reachable.is_set():
            for feed in self._feeds if self._reachable.is_set() else ():
                feed.put(event)
            return
        rule.times -= 1
        if rule.times <= 0:
            self._events.remove(rule)
        for feed in self._feeds:
            rule.act(feed, event)

    def connect(self) -> Feed:
        """A new client's connection."""
        feed = Feed()
        self._feeds.append(feed)
        return feed

    def disconnect(self, feed: Feed) -> None:
        """The client is gone."""
        self._feeds.remove(feed)

    async def reachable(self) -> None:
        """Wait until an outage is over."""
        await self._reachable.wait()

    def fail_call(self, call: str, *, done: bool) -> None:
        """Raise what is due before (``done=False``) or after the place has carried a call out."""
        if not done and not self._reachable.is_set():
            raise BackendUnavailableError("the fake place is down")
        rule = next((r for r in self._calls if r.call == call and r.done is done), None)
        if rule is not None:
            rule.times -= 1
            if rule.times <= 0:
                self._calls.remove(rule)
            raise rule.error

    def next_log_fault(self) -> LogFault | None:
        """What is to befall the log stream that opens now."""
        return self._logs.pop(0) if self._logs else None


def gap_line(last: LogLine, count: int) -> LogLine:
    """The line that stands for lines that the place has forgotten."""
    return LogLine(
        text=f"{count} lines were lost here",
        stream="gap",
        node=last.node,
        rank=last.rank,
        attempt=last.attempt,
        time=last.time,
        position=last.position,
        cursor=last.cursor,
    )
