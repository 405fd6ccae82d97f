"""Submitting, listing, deleting; who owns an engine and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kfasync.engine import Engine
from kfasync.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClientClosedError,
    JobExistsError,
    JobNotFoundError,
    WrongLoopError,
)
from kfasync.events import JobSubmitted
from kfasync.jobs import JobSpec
from kfasync.state import Journal, Status
from tests.engine.memory_place import MemoryBackend, Place

pytestmark = pytest.mark.anyio
PAYLOAD = object()


async def test_a_submitted_job_is_listed_and_found_by_name(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), PAYLOAD)
    assert [job.uid for job in await engine.jobs()] == [handle.uid]
    assert (await engine.job("a")).status == "Created"
    assert (await engine.handle("a")).uid == handle.uid
    assert list(place.jobs) == [handle.uid]


async def test_an_equal_submit_gives_the_same_job(engine: Engine, place: Place) -> None:
    first, second = [await engine.submit(JobSpec(name="a"), PAYLOAD) for _ in range(2)]
    assert first.uid == second.uid
    assert place.created == 1


async def test_a_submit_after_the_end_does_not_run_the_job_again(engine: Engine, place: Place) -> None:
    handle = await engine.submit(JobSpec(name="a"), PAYLOAD)
    await place.finish(handle.uid)
    await handle.wait()
    assert (await engine.submit(JobSpec(name="a"), PAYLOAD)).uid == handle.uid
    assert place.created == 1


async def test_another_spec_under_a_taken_name_is_refused(engine: Engine, place: Place) -> None:
    await engine.submit(JobSpec(name="a"), PAYLOAD)
    with pytest.raises(JobExistsError):
        await engine.submit(JobSpec(name="a", num_nodes=2), PAYLOAD)
    assert place.created == 1


async def test_equal_submits_at_once_by_two_engines_make_one_job(
    engine: Engine, new_engine: Callable[[], Engine], place: Place
) -> None:
    async with new_engine() as other:
        handles = await asyncio.gather(*(e.submit(JobSpec(name="a"), PAYLOAD) for e in (engine, other) * 5))
    assert len({handle.uid for handle in handles}) == 1
    assert place.created == 1


async def test_a_thousand_submits_at_once_all_run_to_their_end(engine: Engine, place: Place) -> None:
    handles = await asyncio.gather(*(engine.submit(JobSpec(name=f"a{n}"), PAYLOAD) for n in range(1000)))
    waits = asyncio.gather(*(handle.wait(timeout=60) for handle in handles))
    for handle in handles:
        await place.finish(handle.uid)
    assert {state.status for state in await waits} == {Status.COMPLETE}


async def test_a_refused_submit_leaves_nothing_behind(engine: Engine, place: Place) -> None:
    place.refusal = BackendError("no such image")
    with pytest.raises(BackendError, match="no such image"):
        await engine.submit(JobSpec(name="a"), PAYLOAD)
    place.refusal = None
    assert await engine.jobs() == []
    await engine.submit(JobSpec(name="a", num_nodes=2), PAYLOAD)
    assert place.created == 1


async def test_a_submit_whose_answer_was_lost_is_sent_again(engine: Engine, place: Place) -> None:
    place.lost_replies = [BackendTimeoutError("no answer")]
    handle = await engine.submit(JobSpec(name="a"), PAYLOAD)
    assert place.created == 1
    assert list(place.jobs) == [handle.uid]


async def test_submit_again_after_the_place_did_not_answer_finds_the_job(engine: Engine, place: Place) -> None:
    place.lost_replies = [BackendTimeoutError("no answer")] * 4
    with pytest.raises(BackendTimeoutError):
        await engine.submit(JobSpec(name="a"), PAYLOAD)
    handle = await engine.submit(JobSpec(name="a"), PAYLOAD)
    assert place.created == 1
    assert list(place.jobs) == [handle.uid]


async def test_submit_again_mends_an_intent_that_never_reached_the_place(
    place: Place, engine: Engine, journal_path: Path
) -> None:
    spec = JobSpec(name="a")
    await _record_intent(journal_path, spec, created=time.time())
    handle = await engine.submit(spec, PAYLOAD)
    assert handle.uid == "orphan"
    assert list(place.jobs) == ["orphan"]


async def test_an_old_intent_without_a_job_is_lost(engine: Engine, journal_path: Path) -> None:
    await _record_intent(journal_path, JobSpec(name="a"), created=time.time() - 3600)
    state = await engine.job("a")
    assert (state.status, state.reason) == (Status.FAILED, "Lost")


async def test_a_young_intent_without_a_job_is_not_lost_yet(engine: Engine, journal_path: Path) -> None:
    await _record_intent(journal_path, JobSpec(name="a"), created=time.time())
    assert (await engine.job("a")).status is Status.CREATED


async def _record_intent(path: Path, spec: JobSpec, created: float) -> None:
    journal = await Journal.open(path)
    event = JobSubmitted(
        place="memory", job=spec.name, uid="orphan", time=created, spec=spec.to_dict(), digest=spec.digest
    )
    await journal.append([event])
    await journal.aclose()


async def test_a_cancelled_submit_leaves_a_job_that_another_submit_finds(engine: Engine, place: Place) -> None:
    await engine.jobs()
    place.gate = asyncio.Event()
    cut = asyncio.ensure_future(engine.submit(JobSpec(name="a"), PAYLOAD))
    async with contextlib.aclosing(engine.events(since=0)) as events:
        await anext(events)
    cut.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut
    place.gate.set()
    handle = await engine.submit(JobSpec(name="a"), PAYLOAD)
    assert list(place.jobs) == [handle.uid]


async def test_a_job_of_another_client_appears(engine: Engine, place: Place) -> None:
    await place.create("theirs", JobSpec(name="a"))
    assert (await engine.handle("a")).uid == "theirs"
    assert (await engine.submit(JobSpec(name="a"), PAYLOAD)).uid == "theirs"


async def test_a_name_that_another_client_gave_to_a_new_job_means_the_new_job(
    engine: Engine, new_engine: Callable[[], Engine], place: Place
) -> None:
    old = await engine.submit(JobSpec(name="a"), PAYLOAD)
    await engine.aclose()
    place.vanish(old.uid)
    await place.create("new", JobSpec(name="a", num_nodes=2))
    async with new_engine() as later:
        assert [job.uid for job in await later.jobs()] == ["new"]


async def test_a_place_that_records_for_itself_chooses_the_uid(recording: Engine, place: Place) -> None:
    first, second = await asyncio.gather(*(recording.submit(JobSpec(name="a"), PAYLOAD) for _ in range(2)))
    assert first.uid == second.uid == place.uid("a")
    await place.start(first.uid)
    await place.finish(first.uid)
    assert (await second.wait()).status is Status.COMPLETE


async def test_delete_returns_when_the_name_is_free(engine: Engine, place: Place) -> None:
    await engine.submit(JobSpec(name="a"), PAYLOAD)
    await engine.delete("a")
    with pytest.raises(JobNotFoundError):
        await engine.job("a")
    assert place.jobs == {}
    await engine.submit(JobSpec(name="a", num_nodes=2), PAYLOAD)


async def test_delete_waits_for_a_place_that_records_for_itself(recording: Engine) -> None:
    handle = await recording.submit(JobSpec(name="a"), PAYLOAD)
    await recording.delete("a")
    with pytest.raises(JobNotFoundError):
        await recording.job("a")
    await handle.delete()


async def test_names_that_do_not_exist_are_typed_errors(engine: Engine) -> None:
    for call in (engine.job, engine.handle, engine.delete, engine.job_metrics):
        with pytest.raises(JobNotFoundError):
            await call("nope")


async def test_listing_ended_jobs_does_not_watch_a_place_that_records_for_itself(
    recording: Engine, place: Place
) -> None:
    assert await recording.jobs() == []
    assert place.listings == 0


async def test_an_engine_opens_once_for_callers_at_once(engine: Engine, place: Place) -> None:
    await asyncio.gather(*(engine.jobs() for _ in range(20)))
    assert place.listings == 1


async def test_a_caller_that_gives_up_does_not_end_the_opening(engine: Engine) -> None:
    hasty = asyncio.ensure_future(engine.jobs())
    patient = asyncio.ensure_future(engine.jobs())
    await asyncio.sleep(0)
    hasty.cancel()
    assert await patient == []


async def test_an_engine_that_could_not_open_tries_again(place: Place, journal_path: Path) -> None:
    backend = MemoryBackend(place, opening=BackendUnavailableError("start the daemon"))
    async with Engine(backend, journal_path) as engine:
        with pytest.raises(BackendUnavailableError, match="start the daemon"):
            await engine.jobs()
        backend.opening = None
        assert await engine.jobs() == []


async def test_a_defect_while_opening_reaches_the_caller(place: Place, journal_path: Path) -> None:
    async with Engine(MemoryBackend(place, opening=KeyError("oops")), journal_path) as engine:
        with pytest.raises(KeyError, match="oops"):
            await engine.jobs()


async def test_close_releases_the_backend_and_may_be_repeated(place: Place, journal_path: Path) -> None:
    backend = MemoryBackend(place)
    engine = Engine(backend, journal_path)
    await engine.jobs()
    await engine.aclose()
    await engine.aclose()
    assert backend.open_count == 0
    with pytest.raises(ClientClosedError):
        await engine.jobs()


async def test_closing_an_engine_that_was_never_used_does_nothing(place: Place, journal_path: Path) -> None:
    await Engine(MemoryBackend(place), journal_path).aclose()
    assert not journal_path.exists()


async def test_who_waits_while_the_engine_closes_is_told(engine: Engine) -> None:
    handle = await engine.submit(JobSpec(name="a"), PAYLOAD)
    wait = asyncio.ensure_future(handle.wait())
    async with contextlib.aclosing(handle.changes()) as changes:
        await anext(changes)
        await engine.aclose()
    with pytest.raises(ClientClosedError):
        await wait


async def test_another_loop_is_refused(engine: Engine) -> None:
    handle = await engine.submit(JobSpec(name="a"), PAYLOAD)
    errors: list[Exception] = []

    def elsewhere() -> None:
        for call in (engine.jobs, handle.wait, engine.aclose):
            try:
                asyncio.run(call())  # type: ignore[arg-type]
            except WrongLoopError as error:
                errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(errors) == 3
