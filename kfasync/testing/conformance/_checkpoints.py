"""Guarantee 7, on: what a job saves is there after a restart, and for the jobs that go on from it."""

from __future__ import annotations

import pytest

from kfasync.errors import UnsupportedError
from kfasync.jobs import RestartPolicy
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee
from kfasync.trainer import AsyncTrainerClient

__all__ = ["CheckpointTests"]

_AGAIN = RestartPolicy(max_restarts=1, backoff=0.0)


class CheckpointTests(ConformanceBase):
    """The checkpoint directory of a job."""

    @guarantee(7, needs=("checkpoints",))
    async def test_a_job_starts_with_a_copy_of_another_ones_checkpoint(self, client: AsyncTrainerClient) -> None:
        parent = await client.submit(train_func=_jobs.add_word, func_args={"word": "one"})
        await parent.wait()
        children = [
            await client.submit(train_func=_jobs.add_word, func_args={"word": word}, checkpoint_from=parent.name)
            for word in ("two", "three")
        ]
        assert [await child.result() for child in children] == ["one two", "one three"]
        left = [(await job.checkpoint() / "words").read_text().split() for job in (parent, *children)]
        assert left == [["one"], ["one", "two"], ["one", "three"]]

    @guarantee(7, needs=("checkpoints",))
    async def test_the_copy_is_made_once_and_what_an_attempt_saved_is_there_for_the_next(
        self, client: AsyncTrainerClient
    ) -> None:
        parent = await client.submit(train_func=_jobs.add_word, func_args={"word": "one"})
        await parent.wait()
        child = await client.submit(
            train_func=_jobs.add_word,
            func_args={"word": "two", "fail_first": True},
            checkpoint_from=parent.name,
            restart_policy=_AGAIN,
        )
        assert await child.result() == "one two two"

    @guarantee(7, needs=("checkpoints",))
    async def test_a_job_whose_parent_left_nothing_or_is_not_there_fails_and_says_so(
        self, client: AsyncTrainerClient
    ) -> None:
        silent = await client.submit(train_func=_jobs.print_marks)
        await silent.wait()
        for name in (silent.name, "nobody"):
            child = await client.submit(train_func=_jobs.add_word, func_args={"word": "two"}, checkpoint_from=name)
            state = await child.wait({"Failed"})
            assert state.reason == "NoCheckpoint"
            assert name in state.message

    @guarantee(7)
    async def test_a_place_without_checkpoints_refuses_a_job_that_needs_one(self, client: AsyncTrainerClient) -> None:
        if "checkpoints" in self.missing:
            with pytest.raises(UnsupportedError, match="checkpoint_from"):
                await client.submit(train_func=_jobs.print_marks, checkpoint_from="parent")
