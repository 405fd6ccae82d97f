"""The watcher: what a broken or lying watch does to those who wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kfasync.engine import Engine
from kfasync.engine._watch import Watcher
from kfasync.errors import BackendError, BackendUnavailableError, IncompatibleVersionError, JobFailedError
from kfasync.events import JobStarted, JobSubmitted
from kfasync.jobs import JobSpec
from kfasync.state import Journal, Status
from tests.engine.memory_place import MemoryBackend, Place, RecordingBackend

pytestmark = pytest.mark.anyio


async def test_what_happened_while_the_watch_was_lost_is_told(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    watchers, place.watchers = place.watchers, set()
    await place.start(handle.uid)
    await place.finish(handle.uid)
    place.watchers = watchers
    place.break_watches(BackendError("connection reset"))
    assert (await handle.wait(timeout=10)).status is Status.COMPLETE
    async with contextlib.aclosing(engine.events(since=0)) as events:
        assert [type(await anext(events)) for _ in range(2)] == [JobSubmitted, JobStarted]


async def test_a_watch_that_fails_some_times_is_tried_again(engine: Engine, place: Place) -> None:
    place.broken = [BackendUnavailableError("not yet")] * 3
    assert await engine.jobs() == []
    assert place.broken == []


async def test_an_error_that_trying_again_cannot_mend_reaches_every_waiter(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())

    async def follow() -> None:
        async with contextlib.aclosing(engine.events(since=0)) as events:
            async for _ in events:
                continue

    async def read() -> None:
        async with contextlib.aclosing(handle.logs(follow=True)) as lines:
            async for _ in lines:
                continue

    everybody = [asyncio.ensure_future(work) for work in (handle.wait(), handle.wait(), follow(), read())]
    async with contextlib.aclosing(handle.changes()) as changes:
        await anext(changes)
        place.break_watches(IncompatibleVersionError("upgrade the client"))
        for waiter in everybody:
            with pytest.raises(IncompatibleVersionError, match="upgrade"):
                await waiter


async def test_a_defect_in_a_backend_is_raised_typed_instead_of_hanging(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    wait = asyncio.ensure_future(handle.wait())
    async with contextlib.aclosing(handle.changes()) as changes:
        await anext(changes)
        place.break_watches(KeyError("status"))
        with pytest.raises(BackendError, match=r"KeyError.*status") as caught:
            await wait
    assert isinstance(caught.value.__cause__, KeyError)


async def test_the_next_need_watches_anew_after_a_failure(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    wait = asyncio.ensure_future(handle.wait())
    async with contextlib.aclosing(handle.changes()) as changes:
        await anext(changes)
        place.break_watches(IncompatibleVersionError("upgrade"))
        with pytest.raises(IncompatibleVersionError):
            await wait
    again = asyncio.ensure_future(handle.wait(timeout=10))
    await place.finish(handle.uid)
    assert (await again).status is Status.COMPLETE


async def test_a_listing_fails_typed_where_the_place_cannot_be_watched(engine: Engine, place: Place) -> None:
    place.broken = [IncompatibleVersionError("upgrade")]
    with pytest.raises(IncompatibleVersionError):
        await engine.jobs()


async def test_a_job_that_the_place_no_longer_has_is_lost(
    engine: Engine, new_engine: Callable[[], Engine], place: Place
) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    await place.start(handle.uid)
    await handle.wait({"Running"})
    await engine.aclose()
    place.vanish(handle.uid)
    async with new_engine() as later:
        with pytest.raises(JobFailedError, match="no trace") as caught:
            await (await later.handle("a")).wait()
    assert caught.value.reason == "Lost"


async def test_a_job_that_is_being_created_is_not_lost(engine: Engine, place: Place) -> None:
    await engine.jobs()
    place.gate = asyncio.Event()
    submit = asyncio.ensure_future(engine.submit(JobSpec(name="a"), object()))
    async with contextlib.aclosing(engine.events(since=0)) as events:
        await anext(events)
        place.break_watches(BackendError("reset"))
        place.gate.set()
        handle = await submit
        await place.finish(handle.uid)
        assert (await handle.wait(timeout=10)).status is Status.COMPLETE


async def test_an_intent_is_looked_for_again_when_its_creator_must_have_finished(
    place: Place, journal_path: Path
) -> None:
    journal = await Journal.open(journal_path)
    spec = JobSpec(name="a")
    await journal.append(
        [
            JobSubmitted(
                place=place.name, job="a", uid="orphan", time=time.time(), spec=spec.to_dict(), digest=spec.digest
            )
        ]
    )
    watcher = Watcher(MemoryBackend(place), journal, lambda it: asyncio.ensure_future(it.run()), grace=0.05)
    await watcher.synced()
    state = await journal.job("memory", "a")
    assert state is not None
    assert state.status is Status.CREATED
    head = await journal.changed(state.cursor)
    [event] = await journal.events(head - 1)
    assert getattr(event, "reason", None) == "Lost"
    assert watcher._task is not None
    watcher._task.cancel()
    await asyncio.gather(watcher._task, return_exceptions=True)
    await journal.aclose()


async def test_one_impossible_event_does_not_cost_the_others(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    stranger = JobStarted(place=place.name, job="x", uid="stranger")
    for queue in place.watchers:
        queue.put_nowait(stranger)
        queue.put_nowait(JobStarted(**place.header(handle.uid)))
        queue.put_nowait(stranger)
    assert (await handle.wait({"Running"}, timeout=10)).status is Status.RUNNING


async def test_events_told_twice_are_recorded_once(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), object())
    await place.start(handle.uid)
    await place.start(handle.uid)
    await place.finish(handle.uid)
    await handle.wait()
    async with contextlib.aclosing(engine.events(since=0)) as events:
        assert [type(await anext(events)).__name__ for _ in range(3)] == ["JobSubmitted", "JobStarted", "JobCompleted"]


async def test_a_place_that_records_for_itself_is_not_written_for(place: Place, journal_path: Path) -> None:
    async with Engine(RecordingBackend(place), journal_path) as engine:
        await place.create("theirs", JobSpec(name="a"))
        async with contextlib.aclosing(engine.events(since=0)) as events:
            coming = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            assert await engine.jobs() == []
            coming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await coming
