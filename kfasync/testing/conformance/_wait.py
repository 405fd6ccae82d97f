"""Guarantee 3: waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kfasync.errors import InvalidSpecError, JobFailedError, JobNotFoundError, WaitTimeoutError
from kfasync.jobs import TrainJob
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee
from kfasync.trainer import AsyncTrainerClient

__all__ = ["WaitTests"]


class WaitTests(ConformanceBase):
    """A wait returns when there is news, raises when the job failed, and never longer than asked."""

    @guarantee(3)
    async def test_wait_returns_on_a_wanted_status(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        assert (await client.wait_for_job_status(handle.name, {"Running"})).status == "Running"
        await handle.delete()

    @guarantee(3)
    async def test_wait_returns_when_the_wanted_status_has_been_passed(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1})
        await handle.wait()
        assert (await handle.wait({"Running"})).status == "Complete"
        assert (await handle.wait({"Created"}, timeout=0)).status == "Complete"

    @guarantee(3)
    async def test_a_failing_function_raises_with_its_exception_rank_and_last_lines(
        self, client: AsyncTrainerClient
    ) -> None:
        handle = await client.submit(train_func=_jobs.fail, func_args={"message": "no such loss"})
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        error = caught.value
        assert (error.name, error.reason, error.exit_code, error.node, error.rank) == (handle.name, "Error", 1, 0, 0)
        assert error.exception == "ValueError: no such loss"
        assert "about to fail" in error.last_lines
        assert "ValueError: no such loss" in error.traceback
        assert "no such loss" in str(error)

    @guarantee(3)
    async def test_wait_does_not_raise_when_failed_was_wanted(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.fail, func_args={"message": "as expected"})
        state = await handle.wait({"Complete", "Failed"})
        assert (state.status, state.reason) == ("Failed", "Error")

    @guarantee(3)
    async def test_wait_raises_at_its_timeout_and_the_job_goes_on(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        await handle.wait({"Running"})
        with pytest.raises(WaitTimeoutError, match=handle.name):
            await client.wait_for_job_status(handle.name, timeout=0.05)
        assert (await handle.state()).status == "Running"
        await handle.delete()

    @guarantee(3)
    async def test_many_waiters_all_return(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(handle.wait({"Failed"})) for _ in range(20)]
            await handle.wait({"Running"})
            await handle.cancel()
        assert {wait.result().reason for wait in waits} == {"Cancelled"}

    @guarantee(3)
    async def test_a_cancelled_wait_loses_nothing(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.wait(), 0.05)
        await handle.cancel()
        assert (await handle.wait({"Failed"})).reason == "Cancelled"

    @guarantee(3)
    async def test_callbacks_run_on_the_callers_thread_at_each_change_and_at_the_end(
        self, client: AsyncTrainerClient
    ) -> None:
        seen: list[tuple[str, int]] = []

        def note(job: TrainJob) -> None:
            seen.append((job.status, threading.get_ident()))

        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1})
        await client.wait_for_job_status(handle.name, callbacks=[note])
        assert seen[-1][0] == "Complete"
        assert {thread for _, thread in seen} == {threading.get_ident()}

    @guarantee(3)
    async def test_a_callback_that_raises_harms_neither_the_job_nor_another_waiter(
        self, client: AsyncTrainerClient
    ) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)

        def broken(job: TrainJob) -> None:
            raise ZeroDivisionError

        async with asyncio.TaskGroup() as group:
            other = group.create_task(handle.wait({"Failed"}))
            with pytest.raises(ZeroDivisionError):
                await client.wait_for_job_status(handle.name, callbacks=[broken])
            assert (await handle.wait({"Running"})).status == "Running"
            await handle.cancel()
        assert other.result().reason == "Cancelled"

    @guarantee(3)
    async def test_a_wait_for_a_job_that_is_deleted_says_so(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        await handle.wait({"Running"})
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.wait({asyncio.ensure_future(handle.wait())}))
            await handle.delete()
        [done] = waiting.result()[0]
        assert isinstance(done.exception(), JobNotFoundError | JobFailedError)

    @guarantee(3)
    async def test_waiting_for_nothing_known_is_an_error_at_once(self, client: AsyncTrainerClient) -> None:
        with pytest.raises(JobNotFoundError, match="no-such-job"):
            await client.wait_for_job_status("no-such-job")
        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1})
        with pytest.raises(InvalidSpecError, match="Finished"):
            await client.wait_for_job_status(handle.name, {"Finished"})
        for timeout in ("1", -1, float("nan"), True):
            with pytest.raises(InvalidSpecError, match="timeout"):
                await handle.wait(timeout=timeout)  # type: ignore[arg-type]
        await handle.wait()
