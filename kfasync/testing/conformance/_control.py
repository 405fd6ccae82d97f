"""Guarantee 7: cancel, delete, suspend and resume; gangs and restarts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kfasync.errors import JobFailedError, JobNotFoundError
from kfasync.jobs import RestartPolicy
from kfasync.testing import chaos
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee, line, texts
from kfasync.trainer import AsyncTrainerClient

__all__ = ["ControlTests"]


class ControlTests(ConformanceBase):
    """What is asked to stop stops, all of it, and says so."""

    @guarantee(7)
    async def test_cancel_leaves_failed_cancelled_with_its_log(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_and_wait, func_args={"lines": ["kept"]})
        await line(handle, "kept")
        await client.cancel(handle.name)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert caught.value.reason == "Cancelled"
        assert await texts(handle) == ["kept"]
        assert (await client.get_job(handle.name)).status == "Failed"

    @guarantee(7)
    async def test_cancel_is_idempotent_and_does_nothing_after_the_end(self, client: AsyncTrainerClient) -> None:
        running = await client.submit(train_func=_jobs.wait_for_stop)
        await running.wait({"Running"})
        for _ in range(3):
            await running.cancel()
        assert (await running.wait({"Failed"})).reason == "Cancelled"
        done = await client.submit(train_func=_jobs.add, func_args={"a": 1})
        await done.wait()
        await done.cancel()
        assert (await done.state()).status == "Complete"

    @guarantee(7)
    async def test_cancel_of_a_job_that_may_not_have_started_ends_it_too(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        await handle.cancel()
        assert (await handle.wait({"Failed"})).reason == "Cancelled"

    @guarantee(7, needs=("processes",))
    async def test_cancel_ends_the_whole_process_tree(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.spawn_grandchild)
        [rank] = chaos.ranks(await handle.wait({"Running"}))
        async for printed in handle.logs(follow=True):
            grandchild = chaos.identify(int(printed.text))
            break
        assert rank.alive
        assert grandchild.alive
        await handle.cancel()
        await handle.wait({"Failed"})
        await chaos.ended(rank)
        await chaos.ended(grandchild)

    @guarantee(7)
    async def test_a_job_that_looks_at_should_stop_can_save_its_work(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.stop_politely, grace=30.0)
        await line(handle, "ready")
        await handle.cancel()
        assert (await handle.wait({"Failed"})).reason == "Cancelled"
        assert await texts(handle) == ["ready", "checkpoint saved"]

    @guarantee(7)
    async def test_a_job_that_ignores_sigterm_is_killed_when_its_grace_is_over(
        self, client: AsyncTrainerClient
    ) -> None:
        handle = await client.submit(train_func=_jobs.ignore_sigterm, grace=0.2)
        await line(handle, "ready")
        await handle.cancel()
        assert (await handle.wait({"Failed"})).reason == "Cancelled"

    @guarantee(7)
    async def test_delete_removes_the_job_and_is_idempotent(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1})
        await handle.wait()
        for _ in range(2):
            await handle.delete()
        with pytest.raises(JobNotFoundError):
            await client.get_job(handle.name)
        assert handle.name not in [job.name for job in await client.list_jobs()]

    @guarantee(7)
    async def test_delete_stops_a_running_job(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        state = await handle.wait({"Running"})
        await client.delete_job(handle.name)
        with pytest.raises(JobNotFoundError):
            await handle.state()
        for rank in chaos.ranks(state):
            await chaos.ended(rank)

    @guarantee(7, needs=("suspend",))
    async def test_suspend_and_resume_run_a_new_attempt_in_the_same_directory(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.count_runs)
        await line(handle, "run 1")
        await client.suspend(handle.name)
        assert (await handle.wait({"Suspended"})).status == "Suspended"
        await client.resume(handle.name)
        assert (await handle.wait({"Running"})).attempt == 2
        await line(handle, "run 2")
        await handle.delete()

    @guarantee(7, needs=("suspend",))
    async def test_suspend_gives_time_to_save_and_can_be_cancelled(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.stop_politely, grace=30.0)
        await line(handle, "ready")
        for _ in range(2):
            await handle.suspend()
        await handle.wait({"Suspended"})
        assert await texts(handle) == ["ready", "checkpoint saved"]
        await handle.cancel()
        assert (await handle.wait({"Failed"})).reason == "Cancelled"

    @guarantee(7)
    async def test_one_rank_that_fails_ends_the_gang_and_is_named(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.fail_on_rank, func_args={"failing": 1}, num_nodes=3)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert (caught.value.node, caught.value.rank) == (1, 1)
        assert caught.value.exception == "RuntimeError: rank 1 is broken"
        assert {rank.status for rank in (await handle.state()).ranks}.isdisjoint({"Pending", "Running"})

    @guarantee(7)
    async def test_a_failed_group_starts_again_as_its_policy_says(self, client: AsyncTrainerClient) -> None:
        policy = RestartPolicy(max_restarts=1, backoff=0.0)
        handle = await client.submit(train_func=_jobs.fail_once, restart_policy=policy)
        state = await handle.wait()
        assert (state.attempt, state.restarts) == (2, 1)
        assert await handle.result() == "attempt 2"

    @guarantee(7)
    async def test_a_group_that_keeps_failing_fails_after_its_last_restart(self, client: AsyncTrainerClient) -> None:
        policy = RestartPolicy(max_restarts=2, backoff=0.0)
        handle = await client.submit(train_func=_jobs.exit_with, func_args={"code": 4}, restart_policy=policy)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert caught.value.exit_code == 4
        assert (await handle.state()).attempt == 3

    @guarantee(7, needs=("processes",))
    async def test_a_killed_rank_fails_its_job_with_the_signal(self, client: AsyncTrainerClient, home: Path) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop, num_nodes=2)
        victim = chaos.ranks(await handle.wait({"Running"}))[1]
        assert chaos.kill(victim)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert (caught.value.rank, caught.value.exit_code) == (1, -signal.SIGKILL)
        # Nobody's counter says that memory was short, so nobody may claim it.
        assert caught.value.reason != "OOMKilled"
