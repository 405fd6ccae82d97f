"""Events: gap-free, in order, bounded, woken by job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kfasync.engine import Engine
from kfasync.engine._bus import Subscription, Tail
from kfasync.errors import JobNotFoundError, JournalError
from kfasync.events import Event, JobDeleted, JobStarted, JobSubmitted, JobWarning
from kfasync.jobs import JobSpec
from kfasync.state import Journal
from tests.engine.memory_place import Place

pytestmark = pytest.mark.anyio


def submitted(uid: str, place: str = "memory") -> JobSubmitted:
    spec = JobSpec(name=uid)
    return JobSubmitted(place=place, job=uid, uid=uid, spec=spec.to_dict(), digest=spec.digest)


def warning(uid: str, number: int) -> JobWarning:
    return JobWarning(place="memory", job=uid, uid=uid, reason=f"w{number}", message="")


async def test_events_come_from_the_beginning_in_journal_order(engine: Engine, place: Place) -> None:
    first = await engine.submit(JobSpec(name="a"), object())
    async with contextlib.aclosing(engine.events(since=0)) as events:
        seen = [await anext(events)]
        second = await engine.submit(JobSpec(name="b"), object())
        await place.start(first.uid)
        seen += [await anext(events), await anext(events)]
    assert [(type(event), event.uid) for event in seen] == [
        (JobSubmitted, first.uid),
        (JobSubmitted, second.uid),
        (JobStarted, first.uid),
    ]
    assert [event.cursor for event in seen] == sorted({event.cursor for event in seen})


async def test_events_go_on_behind_a_cursor_in_another_engine(
    engine: Engine, new_engine: Callable[[], Engine], place: Place
) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    async with contextlib.aclosing(engine.events(since=0)) as events:
        cursor = (await anext(events)).cursor
    await place.start(handle.uid)
    await place.finish(handle.uid)
    await handle.wait()
    async with new_engine() as other, contextlib.aclosing(other.events(since=cursor)) as events:
        assert type(await anext(events)) is JobStarted


async def test_events_from_now_on_leave_out_what_was(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    async with contextlib.aclosing(engine.events()) as events:
        coming = asyncio.ensure_future(anext(events))
        await handle.wait({"Created"})
        await place.start(handle.uid)
        assert type(await coming) is JobStarted


async def test_events_of_one_job_end_when_it_is_deleted(engine: Engine, place: Place) -> None:
    await engine.submit(JobSpec(name="a"), object())
    await engine.submit(JobSpec(name="b"), object())
    async with contextlib.aclosing(engine.events(since=0, job="a")) as events:
        first = await anext(events)
        await engine.delete("b")
        await engine.delete("a")
        assert [type(first)] + [type(event) async for event in events] == [JobSubmitted, JobDeleted]


async def test_events_of_an_unknown_job_are_a_typed_error(engine: Engine) -> None:
    async with contextlib.aclosing(engine.events(job="nope")) as events:
        with pytest.raises(JobNotFoundError):
            await anext(events)


async def test_a_slow_subscriber_loses_nothing_and_repeats_nothing(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    async with contextlib.aclosing(engine.events(since=0)) as events:
        await anext(events)
        for start in range(0, 2500, 500):
            await place.tell(
                handle.uid,
                *(
                    JobWarning(**place.header(handle.uid), reason=f"w{n}", message="")
                    for n in range(start, start + 500)
                ),
            )
        await place.finish(handle.uid)
        await handle.wait()
        reasons = [event.reason async for event in _take(events, 2500) if isinstance(event, JobWarning)]
    assert reasons == [f"w{n}" for n in range(2500)]


async def _take(events: object, count: int):  # type: ignore[no-untyped-def]
    for _ in range(count):
        yield await anext(events)  # type: ignore[call-overload]


@contextlib.asynccontextmanager
async def _tail(path: Path):  # type: ignore[no-untyped-def]
    journal = await Journal.open(path)
    tail = Tail(journal, "memory", await journal.head())
    running = asyncio.ensure_future(tail.run())
    try:
        yield journal, tail
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await journal.aclose()


class _Counting:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def push(self, event: Event) -> None:
        self.events.append(event)

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


async def test_an_event_reaches_only_those_of_its_job_and_of_the_place(journal_path: Path) -> None:
    async with _tail(journal_path) as (journal, tail):
        mine, other, all_of_them = _Counting(), _Counting(), _Counting()
        with (
            tail.listening(mine, "a"),
            tail.listening(other, "b"),
            tail.listening(all_of_them, None),
            tail.subscribe("a") as subscription,
        ):
            await journal.append([submitted("a")])
            await subscription.get()
        assert [len(listener.events) for listener in (mine, other, all_of_them)] == [1, 0, 1]


async def test_events_of_other_places_are_passed_over(journal_path: Path) -> None:
    async with _tail(journal_path) as (journal, tail):
        with tail.subscribe(None) as subscription:
            await journal.append([submitted(f"x{n}", place="elsewhere") for n in range(700)])
            await journal.append([submitted("a")])
            event = await subscription.get()
        assert event is not None
        assert event.uid == "a"


async def test_a_cancelled_get_keeps_its_event(journal_path: Path) -> None:
    async with _tail(journal_path) as (journal, tail):
        with tail.subscribe("a") as subscription:
            for _ in range(20):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        await subscription.get()
            await journal.append([submitted("a"), *(warning("a", n) for n in range(30))])
            got: list[Event | None] = []
            while len(got) < 31:
                try:
                    got.append(await asyncio.wait_for(subscription.get(), 0.0005))
                except TimeoutError:
                    continue
        cursors = [event.cursor for event in got if event is not None]
        assert cursors == sorted(set(cursors))
        assert len(cursors) == 31


async def test_a_subscription_holds_a_bounded_number_of_events(journal_path: Path) -> None:
    async with _tail(journal_path) as (journal, tail):
        with tail.subscribe("a") as slow, tail.subscribe("a") as quick:
            await journal.append([submitted("a"), *(warning("a", n) for n in range(2500))])
            for _ in range(2501):
                await quick.get()
            assert len(slow._queue) <= 1000
            cursors = [event.cursor for _ in range(2501) if (event := await slow.get()) is not None]
    assert cursors == sorted(set(cursors))


async def test_a_finished_subscription_gives_all_that_the_journal_holds(journal_path: Path) -> None:
    async with _tail(journal_path) as (journal, tail):
        with tail.subscribe("a", since=0) as subscription:
            await journal.append([submitted("a"), *(warning("a", n) for n in range(1200))])
            subscription.finish()
            count = 0
            while await subscription.get() is not None:
                count += 1
        assert count == 1201


async def test_a_failed_subscription_first_gives_what_it_has(journal_path: Path) -> None:
    async with _tail(journal_path) as (journal, _):
        subscription = Subscription(journal, "memory", "a", 0)
        [event] = await journal.append([submitted("a")])
        assert event is not None
        subscription.push(event)
        subscription.fail(JournalError("no space"))
        assert await subscription.get() == event
        with pytest.raises(JournalError, match="no space"):
            await subscription.get()


async def test_listeners_that_left_are_forgotten(journal_path: Path) -> None:
    async with _tail(journal_path) as (_, tail):
        for n in range(100):
            with tail.subscribe(f"a{n}"):
                continue
        assert tail._listeners == {}
