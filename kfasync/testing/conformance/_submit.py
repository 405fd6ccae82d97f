"""Guarantees 1 and 2: submitting, and what a job's status says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import InvalidSpecError, JobExistsError, JobFailedError
from kfasync.events import JobStarted, JobSubmitted
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee, history
from kfasync.trainer import AsyncTrainerClient

__all__ = ["SubmitTests"]


class SubmitTests(ConformanceBase):
    """One job for one name; statuses and reasons."""

    @guarantee(1)
    async def test_submitting_the_same_job_again_gives_the_same_job(self, client: AsyncTrainerClient) -> None:
        first = await client.submit(train_func=_jobs.add, func_args={"a": 1}, name="twice")
        again = await client.submit(train_func=_jobs.add, func_args={"a": 1}, name="twice")
        assert again.uid == first.uid
        await first.wait()
        after_the_end = await client.submit(train_func=_jobs.add, func_args={"a": 1}, name="twice")
        assert after_the_end.uid == first.uid

    @guarantee(1)
    async def test_submits_at_the_same_moment_make_one_job(self, client: AsyncTrainerClient) -> None:
        submits = (client.submit(train_func=_jobs.add, func_args={"a": 1}, name="crowd") for _ in range(5))
        handles = await asyncio.gather(*submits)
        assert len({handle.uid for handle in handles}) == 1
        await handles[0].wait()
        events = await history(client, handles[0])
        assert [type(event) for event in events].count(JobSubmitted) == 1
        assert [type(event) for event in events].count(JobStarted) == 1

    @guarantee(1)
    async def test_another_spec_under_a_taken_name_is_refused(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop, name="taken")
        with pytest.raises(JobExistsError, match="taken"):
            await client.submit(train_func=_jobs.wait_for_stop, num_nodes=2, name="taken")
        assert (await handle.wait({"Running"})).status == "Running"
        await handle.delete()

    @guarantee(1)
    async def test_a_name_is_free_again_after_a_delete(self, client: AsyncTrainerClient) -> None:
        first = await client.submit(train_func=_jobs.add, func_args={"a": 1}, name="again")
        await first.wait()
        await client.delete_job("again")
        second = await client.submit(train_func=_jobs.add, func_args={"a": 2}, name="again")
        assert second.uid != first.uid
        assert (await second.result())["sum"] == 2

    @guarantee(1)
    async def test_the_intent_is_recorded_before_anything_else(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1})
        await handle.wait()
        first = (await history(client, handle))[0]
        assert isinstance(first, JobSubmitted)
        assert first.uid == handle.uid

    @guarantee(1)
    @pytest.mark.parametrize("name", ["x" * 64, "Upper", "1st", "under_score", "end-", "a b", "$(id)", "../up"])
    async def test_a_name_that_can_not_be_used_is_refused_at_submit(
        self, client: AsyncTrainerClient, home: Path, name: str
    ) -> None:
        with pytest.raises(InvalidSpecError, match="name"):
            await client.submit(train_func=_jobs.add, name=name)
        assert name not in [job.name for job in await client.list_jobs()]

    @guarantee(2)
    async def test_a_job_goes_from_created_over_running_to_complete(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.stop_politely)
        seen = [(await client.get_job(handle.name)).status]
        async for state in handle.changes():
            seen.append(state.status.value)
            if state.status == "Running":
                await handle.cancel()
        # The polite end after a cancel is a cancelled job; only the way there is of interest.
        order = ["Created", "Running", "Failed"]
        assert sorted(seen, key=order.index) == seen
        assert seen[-2:] == ["Running", "Failed"]

    @guarantee(2)
    async def test_a_function_that_returns_completes_its_job(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_lines, func_args={"lines": ["done"]})
        state = await handle.wait()
        assert (state.status, state.attempt) == ("Complete", 1)
        job = await client.get_job(handle.name)
        assert job.status == "Complete"
        assert [(step.name, step.status) for step in job.steps] == [("node-0", "Succeeded")]

    @guarantee(2)
    @pytest.mark.parametrize("code", [3, 137, 255])
    async def test_an_exit_code_is_told_and_not_taken_for_more_than_it_is(
        self, client: AsyncTrainerClient, code: int
    ) -> None:
        handle = await client.submit(train_func=_jobs.exit_with, func_args={"code": code})
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert (caught.value.reason, caught.value.exit_code) == ("Error", code)

    @guarantee(2)
    async def test_exit_code_zero_is_success(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.exit_with, func_args={"code": 0})
        assert (await handle.wait()).status == "Complete"

    @guarantee(2, needs=("memory-limits",))
    async def test_a_job_that_takes_too_much_memory_is_oom_killed(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(
            train_func=_jobs.exhaust_memory,
            func_args={"limit": 256 << 20},
            resources_per_node={"memory": "256Mi"},
        )
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert caught.value.reason == "OOMKilled"

    @guarantee(2, needs=("unstartable",))
    async def test_a_job_that_can_not_start_says_why(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(**self.unstartable())
        async for state in handle.changes():
            assert state.status == "Created"
            if state.reason not in ("", "Queued"):
                assert state.message
                break
        await handle.delete()

    @guarantee(2, needs=("unstartable",))
    async def test_a_job_that_has_not_started_by_its_start_deadline_fails(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(**self.unstartable(), start_deadline=1.0)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert caught.value.reason == "StartDeadlineExceeded"

    @guarantee(2)
    async def test_an_active_deadline_is_at_least_a_second(self, client: AsyncTrainerClient) -> None:
        def option(job_spec: dict[str, Any], trainer: object, backend: object) -> None:
            job_spec.setdefault("spec", {})["activeDeadlineSeconds"] = 0

        short: list[dict[str, Any]] = [{"active_deadline": 0}, {"active_deadline": 0.5}, {"options": [option]}]
        for given in short:
            with pytest.raises(InvalidSpecError, match="active_deadline must be at least 1 second"):
                await client.submit(train_func=_jobs.wait_for_stop, name="too-short", **given)
        assert "too-short" not in [job.name for job in await client.list_jobs()]

    @guarantee(2)
    async def test_a_job_past_its_active_deadline_fails(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop, active_deadline=1.0)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait()
        assert caught.value.reason == "DeadlineExceeded"

    @guarantee(2)
    async def test_a_job_whose_time_to_live_is_over_is_deleted(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1}, ttl=0.1)
        async for event in client.events(since=0, job=handle.name):
            last = event
        assert type(last).__name__ == "JobDeleted"
        assert handle.name not in [job.name for job in await client.list_jobs()]
