"""Studies under control: suspended, cancelled, waited for, many at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import WaitTimeoutError
from kfasync.events import JobStarted, TrialEnded, TrialStarted
from kfasync.optimizer import (
    AsyncOptimizerClient,
    OptimizationJob,
    TrialConfig,
)
from tests.optimizer.functions import (
    count_starts,
    square,
    wait_for_ever,
)
from tests.optimizer.studies import X, finished, first, template

pytestmark = pytest.mark.anyio


# -------------------------------------------------------------------- control


async def begun(optimizer: AsyncOptimizerClient, name: str, trial: str) -> None:
    async with aclosing(optimizer.get_job_logs(name, trial, follow=True)) as lines:
        assert await anext(lines) == "begun"


async def test_a_suspended_study_gives_up_its_places_and_goes_on_when_it_is_resumed(
    optimizer: AsyncOptimizerClient,
) -> None:
    name = await optimizer.optimize(
        template(count_starts), search_space=X, trial_config=TrialConfig(2, 2), name="suspended"
    )
    await first(optimizer, name, JobStarted, 2, suffix="-")
    for trial in ("suspended-0", "suspended-1"):
        await begun(optimizer, name, trial)
    await optimizer.suspend(name)
    job = await optimizer.get_job(name)
    assert job.status == "Suspended"
    assert {trial.trainjob and trial.trainjob.status for trial in job.trials} == {"Suspended"}
    await optimizer.resume(name)
    job = await finished(optimizer, name)
    assert [(trial.name, trial.status) for trial in job.trials] == [
        ("suspended-0", "complete"),
        ("suspended-1", "complete"),
    ]


async def test_cancel_stops_the_trials(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(wait_for_ever), search_space=X, trial_config=TrialConfig(5, 2), name="cancelled"
    )
    await first(optimizer, name, JobStarted, 2, suffix="-")
    await optimizer.cancel(name)
    job = await optimizer.get_job(name)
    assert (job.status, job.reason) == ("Failed", "Cancelled")
    assert [(trial.status, trial.reason) for trial in job.trials] == [("failed", "Cancelled")] * 2
    assert {trial.trainjob and trial.trainjob.reason for trial in job.trials} == {"Cancelled"}
    await optimizer.cancel(name)


async def test_a_study_is_suspended_although_somebody_suspended_its_trial_before(
    optimizer: AsyncOptimizerClient,
) -> None:
    config = TrialConfig(num_trials=1)
    name = await optimizer.optimize(template(count_starts), search_space=X, trial_config=config, name="nested")
    trial = f"{name}-0"
    await first(optimizer, name, JobStarted, suffix="-")
    await begun(optimizer, name, trial)
    for job in (trial, name):
        await optimizer._trials.suspend(job)
        await optimizer._trials.wait_for_job_status(job, {"Suspended"}, timeout=60)
    await optimizer.resume(name)
    assert [each.status for each in (await finished(optimizer, name)).trials] == ["complete"]


async def test_a_cancelled_suspended_study_leaves_no_suspended_trial(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(template(wait_for_ever), search_space=X, trial_config=TrialConfig(1), name="both")
    await first(optimizer, name, JobStarted, suffix="-")
    await optimizer.suspend(name)
    await optimizer.cancel(name)
    job = await optimizer.get_job(name)
    assert (job.status, job.trials[0].trainjob and job.trials[0].trainjob.status) == ("Failed", "Failed")


async def test_a_study_that_runs_can_be_deleted(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(template(wait_for_ever), search_space=X, trial_config=TrialConfig(5, 2), name="del")
    await first(optimizer, name, JobStarted, 2, suffix="-")
    await optimizer.delete_job(name)
    assert not [job.name for job in await optimizer._trials.list_jobs() if job.name.startswith("del-")]


# -------------------------------------------------------------------- waiting


async def test_callbacks_see_every_change_of_status_and_of_trials(optimizer: AsyncOptimizerClient) -> None:
    seen: list[tuple[str, int]] = []

    def hear(job: OptimizationJob) -> None:
        seen.append((job.status, sum(trial.status == "complete" for trial in job.trials)))

    def slowly(x: float) -> None:

        time.sleep(0.2)
        print(f"loss={x}")

    name = await optimizer.optimize(template(slowly), search_space=X, trial_config=TrialConfig(3))
    await finished(optimizer, name, callbacks=[hear])
    assert seen == sorted(seen, key=lambda each: each[1])
    assert {("Running", 0), ("Running", 1), ("Running", 2)} <= set(seen)
    assert seen[-1] == ("Complete", 3)


async def test_a_callback_that_raises_ends_the_wait_and_not_the_study(optimizer: AsyncOptimizerClient) -> None:
    def broken(job: OptimizationJob) -> None:
        raise LookupError(job.name)

    name = await optimizer.optimize(template(square), search_space=X, trial_config=TrialConfig(1))
    with pytest.raises(LookupError):
        await finished(optimizer, name, callbacks=[broken])
    assert (await finished(optimizer, name)).status == "Complete"


async def test_a_wait_that_takes_too_long_ends_and_the_study_goes_on(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(template(wait_for_ever), search_space=X, trial_config=TrialConfig(1))
    with pytest.raises(WaitTimeoutError):
        await optimizer.wait_for_job_status(name, timeout=0.2)
    assert (await optimizer.wait_for_job_status(name, {"Running"}, timeout=20)).status == "Running"
    await optimizer.cancel(name)
    assert (await optimizer.wait_for_job_status(name, {"Failed"}, timeout=20)).reason == "Cancelled"


async def test_the_log_of_a_trial_is_followed_while_it_runs(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(template(wait_for_ever), search_space=X, trial_config=TrialConfig(1), name="fol")
    await first(optimizer, name, TrialStarted)
    await first(optimizer, name, JobStarted, suffix="-")
    async with aclosing(optimizer.get_job_logs(name, follow=True)) as lines:
        assert await anext(lines) == "waiting"
    await optimizer.cancel(name)


# -------------------------------------------------------------------- places


async def test_no_more_trials_run_at_once_than_may(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(template(square), search_space=X, trial_config=TrialConfig(12, 3))
    await finished(optimizer, name)
    running, most = 0, 0
    state = await optimizer._studies.engine.job(name)
    for event in await optimizer._studies.engine.history(state.uid):
        running += isinstance(event, TrialStarted) - isinstance(event, TrialEnded)
        most = max(most, running)
    assert most == 3


async def test_more_studies_than_places_all_end(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFASYNC_RANKS_PER_CORE", "1")
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        names = [
            await client.optimize(template(square), search_space=X, trial_config=TrialConfig(3, 3)) for _ in range(4)
        ]
        jobs = await asyncio.gather(*(finished(client, name) for name in names))
        assert [len(job.trials) for job in jobs] == [3] * 4
