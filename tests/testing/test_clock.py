from __future__ import annotations

import asyncio
import math

import pytest

from kfasync.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def test_time_stands_still_until_it_is_advanced() -> None:
    clock = VirtualClock(100.0)
    seen: list[float] = []
    clock.call_later(5, lambda: seen.append(clock.time()))
    await clock.advance(4.5)
    assert (clock.time(), seen) == (104.5, [])
    await clock.advance(10)
    assert (clock.time(), seen) == (114.5, [105.0])


async def test_timers_fire_in_order_of_time_and_then_of_their_making() -> None:
    clock = VirtualClock()
    seen: list[str] = []
    for name, seconds in (("c", 3), ("a", 1), ("d", 3), ("b", 2)):
        clock.call_later(seconds, lambda name=name: seen.append(name))  # type: ignore[misc]
    await clock.advance(3)
    assert seen == ["a", "b", "c", "d"]


async def test_a_timer_set_by_a_timer_fires_within_the_same_advance() -> None:
    clock = VirtualClock()
    seen: list[float] = []
    clock.call_later(1, lambda: clock.call_later(1, lambda: seen.append(clock.time())))
    await clock.advance(2)
    assert seen == [2.0]


async def test_a_cancelled_timer_does_not_fire() -> None:
    clock = VirtualClock()
    seen: list[int] = []
    timer = clock.call_later(1, lambda: seen.append(1))
    timer.cancel()
    timer.cancel()
    await clock.advance(2)
    assert seen == []


async def test_an_infinite_time_never_comes() -> None:
    clock = VirtualClock(auto=True)
    clock.call_later(math.inf, lambda: pytest.fail("the end of time"))
    await clock.sleep(1e9)
    assert clock.time() == 1e9


async def test_sleep_ends_when_its_time_has_come() -> None:
    clock = VirtualClock()
    sleeping = asyncio.ensure_future(clock.sleep(5))
    await asyncio.sleep(0)
    await clock.advance(4)
    assert not sleeping.done()
    await clock.advance(1)
    await sleeping


async def test_time_that_flies_needs_nobody_to_advance_it() -> None:
    clock = VirtualClock(auto=True)
    async with asyncio.timeout(10):
        await asyncio.gather(*(clock.sleep(days * 86_400) for days in (3, 1, 2)))
    assert clock.time() == 3 * 86_400
