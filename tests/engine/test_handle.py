"""Waiting for a job, following its output, controlling it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from kfasync.engine import Engine, JobHandle
from kfasync.errors import InvalidSpecError, JobFailedError, JobNotFoundError, ResultError, WaitTimeoutError
from kfasync.events import JobFailed, JobStarted
from kfasync.jobs import JobSpec
from kfasync.state import JobState, Status
from tests.engine.memory_place import Place

pytestmark = pytest.mark.anyio


@pytest.fixture
async def job(engine: Engine) -> JobHandle:
    return await engine.submit(JobSpec(name="a"), object())


async def test_wait_returns_the_state_of_a_completed_job(job: JobHandle, place: Place) -> None:
    await place.start(job.uid)
    await place.finish(job.uid)
    state = await job.wait()
    assert (state.name, state.status) == ("a", Status.COMPLETE)
    assert state.started is not None


async def test_wait_raises_when_the_job_fails(job: JobHandle, place: Place) -> None:
    wait = asyncio.ensure_future(job.wait())
    await place.start(job.uid)
    await place.fail(
        job.uid, exit_code=3, node=1, rank=2, exception="ValueError: no", traceback="Traceback", last_lines=("x", "y")
    )
    with pytest.raises(JobFailedError) as caught:
        await wait
    error = caught.value
    assert (error.reason, error.exit_code, error.node, error.rank) == ("Error", 3, 1, 2)
    assert (error.exception, error.traceback, error.last_lines) == ("ValueError: no", "Traceback", ("x", "y"))


async def test_wait_for_failed_returns_the_failure(job: JobHandle, place: Place) -> None:
    await place.fail(job.uid)
    assert (await job.wait({"Failed", "Complete"})).reason == "Error"


async def test_wait_for_running_returns_for_a_job_that_has_already_completed(job: JobHandle, place: Place) -> None:
    await place.start(job.uid)
    await place.finish(job.uid)
    await job.wait()
    assert (await job.wait({"Running"})).status is Status.COMPLETE


async def test_wait_for_created_returns_at_once(job: JobHandle, place: Place) -> None:
    await place.start(job.uid)
    assert (await job.wait({"Created"}, timeout=5)).uid == job.uid


async def test_a_suspended_job_has_not_ended(job: JobHandle, place: Place) -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    def note(state: JobState) -> None:
        seen.append(f"{state.status.value}/{state.reason}")
        begun.set()

    wait = asyncio.ensure_future(job.wait(on_change=note))
    await begun.wait()
    await place.start(job.uid)
    await job.wait({"Running"})
    await job.suspend()
    await job.wait({"Suspended"})
    await job.resume()
    await place.start(job.uid)
    await place.finish(job.uid)
    await wait
    assert seen == [
        "Created/Queued",
        "Running/",
        "Suspended/Suspended",
        "Created/Queued",
        "Running/",
        "Complete/",
    ]


async def test_wait_times_out_by_the_monotonic_clock_and_the_job_goes_on(job: JobHandle, place: Place) -> None:
    begin = time.monotonic()
    with pytest.raises(WaitTimeoutError, match=r"Created \(Queued\)"):
        await job.wait(timeout=0.05)
    assert 0.04 < time.monotonic() - begin < 1
    await place.finish(job.uid)
    await job.wait()


async def test_a_wait_for_a_suspended_job_times_out_and_says_how_to_resume(job: JobHandle, place: Place) -> None:
    await place.start(job.uid)
    await job.suspend()
    await job.wait({"Suspended"})
    told = rf"job '{job.name}' is Suspended after 0 s, not Complete; resume it with .*kfasync resume {job.name}$"
    with pytest.raises(WaitTimeoutError, match=told):
        await job.wait(timeout=0)


async def test_a_timeout_of_zero_looks_at_the_present_state(job: JobHandle, place: Place) -> None:
    with pytest.raises(WaitTimeoutError):
        await job.wait(timeout=0)
    await place.finish(job.uid)
    await job.wait()
    assert (await job.wait(timeout=0)).status is Status.COMPLETE


@pytest.mark.parametrize("status", [{"Done"}, set(), {"complete"}])
async def test_an_unknown_status_is_refused(job: JobHandle, status: set[str]) -> None:
    with pytest.raises(InvalidSpecError, match="Complete, Created"):
        await job.wait(status)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_timeout_that_is_no_duration_is_refused(job: JobHandle, timeout: float) -> None:
    with pytest.raises(InvalidSpecError, match="timeout"):
        await job.wait(timeout=timeout)


async def test_wait_raises_promptly_when_the_job_is_deleted(engine: Engine, job: JobHandle) -> None:
    waits = [asyncio.ensure_future(job.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.delete("a")
    for wait in waits:
        with pytest.raises(JobNotFoundError):
            await asyncio.wait_for(wait, 5)


async def test_a_handle_does_not_pass_to_a_new_job_of_the_same_name(engine: Engine, job: JobHandle) -> None:
    await engine.delete("a")
    await engine.submit(JobSpec(name="a"), object())
    for call in (job.state, job.wait, job.cancel):
        with pytest.raises(JobNotFoundError):
            await call()


async def test_a_cancelled_wait_leaves_no_task_and_the_job_goes_on(job: JobHandle, place: Place) -> None:
    await job.wait({"Created"})
    before = asyncio.all_tasks()
    wait = asyncio.ensure_future(job.wait())
    async with contextlib.aclosing(job.changes()) as changes:
        await anext(changes)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert asyncio.all_tasks() <= before
    await place.finish(job.uid)
    await job.wait()


async def test_an_error_of_a_callback_reaches_its_caller_and_nobody_else(job: JobHandle, place: Place) -> None:
    def spoil(state: JobState) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await job.wait(on_change=spoil)
    await place.finish(job.uid)
    await job.wait()


async def test_thousand_waiters_of_one_job_need_no_task_of_ours(job: JobHandle, place: Place) -> None:
    await job.wait({"Created"})
    before = len(asyncio.all_tasks())
    waits = [asyncio.ensure_future(job.wait()) for _ in range(1000)]
    async with contextlib.aclosing(job.changes()) as changes:
        await anext(changes)
        assert len(asyncio.all_tasks()) - before == 1000
    await place.finish(job.uid)
    assert {state.status for state in await asyncio.gather(*waits)} == {Status.COMPLETE}


async def test_changes_tells_each_status_and_ends_with_the_job(job: JobHandle, place: Place) -> None:
    seen: list[str] = []
    async with contextlib.aclosing(job.changes()) as changes:
        async for state in changes:
            seen.append(state.status.value)
            if state.status is Status.CREATED:
                await place.start(job.uid)
                place.print(job.uid, "loss=1")
            elif state.status is Status.RUNNING:
                await place.finish(job.uid)
    assert seen == ["Created", "Running", "Complete"]


async def test_cancel_ends_the_job_and_may_be_repeated(job: JobHandle) -> None:
    await job.cancel()
    with pytest.raises(JobFailedError, match="Cancelled"):
        await job.wait()
    await job.cancel()
    assert (await job.state()).reason == "Cancelled"


async def test_logs_follow_until_the_job_ends(job: JobHandle, place: Place) -> None:
    place.print(job.uid, "one")
    lines: list[str] = []
    async with contextlib.aclosing(job.logs(follow=True)) as logs:
        async for line in logs:
            lines.append(line.text)
            if line.text == "one":
                place.print(job.uid, "two")
            elif line.text == "two":
                place.print(job.uid, "three")
                await place.finish(job.uid)
    assert lines == ["one", "two", "three"]


async def test_logs_without_follow_give_what_is_there(job: JobHandle, place: Place) -> None:
    place.print(job.uid, "one")
    place.print(job.uid, "two", stream="stderr")
    async with contextlib.aclosing(job.logs(streams=["stderr"])) as logs:
        assert [line.text async for line in logs] == ["two"]


async def test_a_broken_log_stream_goes_on_without_loss_or_repeat(job: JobHandle, place: Place) -> None:
    for n in range(10):
        place.print(job.uid, f"line {n}")
    await place.finish(job.uid)
    place.cut_logs = [3, 2, 0, 4]
    async with contextlib.aclosing(job.logs(follow=True)) as logs:
        assert [line.text async for line in logs] == [f"line {n}" for n in range(10)]


async def test_following_a_log_ends_when_the_job_is_deleted(engine: Engine, job: JobHandle, place: Place) -> None:
    place.print(job.uid, "one")
    async with contextlib.aclosing(job.logs(follow=True)) as logs:
        await anext(logs)
        await engine.delete("a")
        assert [line async for line in logs] == []


async def test_a_closed_log_leaves_no_task(job: JobHandle, place: Place) -> None:
    place.print(job.uid, "one")
    await job.wait({"Created"})
    before = asyncio.all_tasks()
    async with contextlib.aclosing(job.logs(follow=True)) as logs:
        await anext(logs)
    assert asyncio.all_tasks() <= before


async def test_result_waits_for_the_value_of_rank_zero(job: JobHandle, place: Place) -> None:
    result = asyncio.ensure_future(job.result())
    await place.finish(job.uid, result={"loss": 0.5})
    assert await result == {"loss": 0.5}
    assert await job.results() == {0: {"loss": 0.5}}


async def test_a_missing_result_is_typed(job: JobHandle, place: Place) -> None:
    await place.finish(job.uid)
    with pytest.raises(ResultError, match="rank 0"):
        await job.result()


async def test_the_result_of_a_failed_job_is_its_failure(job: JobHandle, place: Place) -> None:
    await place.fail(job.uid)
    with pytest.raises(JobFailedError):
        await job.result()


async def test_files_lists_what_the_job_left(job: JobHandle, place: Place, tmp_path: Path) -> None:
    (tmp_path / "work" / "sub").mkdir(parents=True)
    (tmp_path / "work" / "sub" / "b").touch()
    (tmp_path / "work" / "a").touch()
    place.jobs[job.uid].workdir = tmp_path / "work"
    assert await job.files() == [tmp_path / "work" / "a", tmp_path / "work" / "sub" / "b"]


async def test_only_the_first_of_two_ends_counts(job: JobHandle, place: Place) -> None:
    await place.finish(job.uid)
    await place.tell(job.uid, JobFailed(**place.header(job.uid), reason="Late"))
    await place.tell(job.uid, JobStarted(**place.header(job.uid)))
    assert (await job.wait()).status is Status.COMPLETE
    assert (await job.state()).status is Status.COMPLETE
