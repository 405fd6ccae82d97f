"""A study's handle: its trials as they end, the best so far, and control; awaited, entered, and blocking."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import JobFailedError, JobNotFoundError
from kfasync.events import JobStarted
from kfasync.optimizer import AsyncOptimizerClient, OptimizerClient, TrialConfig
from tests.optimizer.functions import fail_above, square, wait_for_ever
from tests.optimizer.studies import X, first, template

pytestmark = pytest.mark.anyio


async def test_every_trial_is_told_as_it_ends_and_the_best_is_known_meanwhile(optimizer: AsyncOptimizerClient) -> None:
    config = TrialConfig(num_trials=5, parallel_trials=2)
    async with optimizer.submit(template(square), search_space=X, trial_config=config, name="told") as study:
        seen, best = [], []
        async for trial in study.finished():
            seen.append(trial)
            result = await study.best()
            assert result is not None
            best.append(result.metrics[0].latest)
    assert sorted(trial.number for trial in seen) == list(range(5))
    assert {trial.trainjob and trial.trainjob.status for trial in seen} == {"Complete"}
    assert all(trial.metrics[0].latest == trial.parameters["x"] ** 2 for trial in seen)
    assert best == sorted(best, reverse=True)
    assert best[-1] == min(trial.metrics[0].latest for trial in seen)
    assert (await study.job()).status == (await study.wait()).status == "Complete"


async def test_who_comes_late_is_told_of_all_trials(optimizer: AsyncOptimizerClient) -> None:
    study = await optimizer.submit(template(square), search_space=X, trial_config=TrialConfig(3), name="later")
    await study.wait()
    again = await optimizer.attach("later")
    assert [trial.number async for trial in again.finished()] == [0, 1, 2]
    with pytest.raises(JobNotFoundError):
        await optimizer.attach("nobody")


async def test_a_failed_study_raises_behind_its_last_trial(optimizer: AsyncOptimizerClient) -> None:
    config = TrialConfig(num_trials=4, max_failed_trials=0)
    points = [{"x": 0.1}, {"x": 0.9}]
    study = await optimizer.submit(
        template(fail_above), search_space=X, trial_config=config, enqueue=points, name="raises"
    )
    seen = []

    async def follow() -> None:
        async for trial in study.finished():
            seen.append(trial.status)

    with pytest.raises(JobFailedError, match="MaxFailedTrials"):
        await follow()
    assert seen == ["complete", "failed"]


async def test_left_in_the_middle_a_study_goes_on(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.submit(template(square), search_space=X, trial_config=TrialConfig(4), name="goes-on") as study:
        async for _ in study.finished():
            break
    assert len((await study.wait()).trials) == 4


async def test_a_study_is_controlled_by_its_handle(optimizer: AsyncOptimizerClient) -> None:
    study = await optimizer.submit(template(wait_for_ever), search_space=X, trial_config=TrialConfig(1), name="handled")
    await first(optimizer, "handled", JobStarted, suffix="-")
    await study.suspend()
    assert (await study.job()).status == "Suspended"
    await study.resume()
    await study.wait({"Running"})
    await study.cancel()
    with pytest.raises(JobFailedError, match="Cancelled"):
        await study.wait()
    await study.delete()
    with pytest.raises(JobNotFoundError):
        await study.job()


async def test_the_same_study_asked_for_again_goes_on_when_it_is_suspended(optimizer: AsyncOptimizerClient) -> None:
    config = TrialConfig(num_trials=2)
    name = await optimizer.optimize(template(wait_for_ever), search_space=X, trial_config=config, name="again")
    await optimizer.suspend(name)
    await optimizer.optimize(template(wait_for_ever), search_space=X, trial_config=config, name="again")
    assert (await optimizer.wait_for_job_status(name, {"Running"}, timeout=60)).status == "Running"
    await optimizer.delete_job(name)


async def test_the_blocking_twin(own_home: Path) -> None:
    def use() -> list[int]:
        client = OptimizerClient(LocalProcessBackendConfig())
        config = TrialConfig(num_trials=3)
        with client.submit(template(square), search_space=X, trial_config=config, name="blocking") as study:
            numbers = [trial.number for trial in study.finished()]
            assert study.best() is not None
        assert client.attach("blocking").job().status == study.wait().status == "Complete"
        study.delete()
        return numbers

    assert await asyncio.to_thread(use) == [0, 1, 2]
