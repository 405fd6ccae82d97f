"""Time that passes only when it is told to."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Timer", "VirtualClock"]


@dataclass(order=True)
class Timer:
    """A call that is due at a moment of virtual time.

    Attributes:
        when: That moment, in seconds of the clock that made it.
    """

    when: float
    _ordinal: int
    _call: Callable[[], None] | None = field(compare=False, repr=False)

    def cancel(self) -> None:
        """Don't call after all; safe to repeat, and after the call."""
        self._call = None

    def _fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class VirtualClock:
    """A clock for tests: it stands still until `advance` moves it, then everything due happens in order.

    Args:
        start: Its first reading, in seconds.
        auto: Whether time flies by itself: every timer fires as soon as the loop is free, earliest first. Waiting for a
            minute of virtual time then takes no real time, and needs nobody to call `advance`.

    Example:
        >>> async def main() -> list[str]:
        ...     clock, seen = VirtualClock(), []
        ...     clock.call_later(5, lambda: seen.append("five"))
        ...     clock.call_later(2, lambda: seen.append("two"))
        ...     await clock.advance(4)
        ...     return seen
        >>> asyncio.run(main())
        ['two']
    """

    def __init__(self, start: float = 0.0, *, auto: bool = False) -> None:
        self._now = start
        self._auto = auto
        self._timers: list[Timer] = []
        self._ordinals = itertools.count()
        self._jump: asyncio.Handle | None = None

    def time(self) -> float:
        """The present moment, in seconds."""
        return self._now

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call a function when so much time has passed; after an infinite time, never.

        Args:
            seconds: From now on; 0 is the next time that the clock moves, even by nothing.
            call: A plain function.

        Returns:
            A timer that can be cancelled.
        """
        timer = Timer(self._now + max(seconds, 0.0), next(self._ordinals), call)
        if math.isfinite(timer.when):
            heapq.heappush(self._timers, timer)
            self._arm()
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass: fire what becomes due, in order, with a turn of the event loop after each."""
        end = self._now + seconds
        while self._timers and self._timers[0].when <= end:
            self._fire_next()
            # A reader of the loop may answer a timer by setting another one that is due within this same span.
            await asyncio.sleep(0)
        self._now = max(self._now, end)
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Wait until so much virtual time has passed."""
        over = asyncio.Event()
        timer = self.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def _fire_next(self) -> None:
        timer = heapq.heappop(self._timers)
        self._now = max(self._now, timer.when)
        timer._fire()

    def _arm(self) -> None:
        if self._auto and self._jump is None:
            self._jump = asyncio.get_running_loop().call_soon(self._fly)

    def _fly(self) -> None:
        self._jump = None
        if self._timers:
            self._fire_next()
        if self._timers:
            self._arm()
