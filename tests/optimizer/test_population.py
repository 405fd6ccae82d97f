"""Population based training on real local processes: checkpoints go from job to job, whatever happens."""

from __future__ import annotations

import asyncio
import collections
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import UnsupportedError
from kfasync.events import TrialEnded, TrialStarted
from kfasync.optimizer import PBT, AsyncOptimizerClient, OptimizationJob, RandomSearch, Search, Trial, TrialConfig
from kfasync.state import verify
from kfasync.testing import FakeBackend, FakeBackendConfig, chaos
from tests.optimizer import members
from tests.optimizer.studies import failed, finished, first, template

pytestmark = pytest.mark.anyio

H = {"h0": Search.uniform(0, 1), "h1": Search.uniform(0, 1)}
#: The least loss that training from the start can reach in one trial, with the best hyperparameters.
BOUND = members.loss_of(members.descend(members.START, 1.0, 1.0))


async def model_of(client: AsyncOptimizerClient, trial: Trial) -> dict[str, Any]:
    """What a trial left."""
    handle = await client._trials.attach(trial.name)
    return members.load(await handle.checkpoint())


async def check_lineage(client: AsyncOptimizerClient, job: OptimizationJob) -> None:
    """Each complete trial's model was trained by those from whom it is said to descend, and then by that trial."""
    trials = {trial.name: trial for trial in job.trials}
    for trial in job.trials:
        if trial.status == "complete":
            model = await model_of(client, trial)
            before: dict[str, Any] = {"jobs": [], "theta": members.START}
            if trial.parent:
                before = await model_of(client, trials[trial.parent])
            assert model["jobs"] == [*before["jobs"], trial.name]
            theta = members.descend(tuple(before["theta"]), trial.parameters["h0"], trial.parameters["h1"])
            assert trial.metrics[0].latest == pytest.approx(members.loss_of(theta))


async def test_a_population_reaches_what_random_search_can_not_with_as_many_trials(
    optimizer: AsyncOptimizerClient,
) -> None:
    config = TrialConfig(24, 2)
    search = await optimizer.optimize(
        template(members.train), search_space=H, algorithm=RandomSearch(1), trial_config=config, name="random"
    )
    name = await optimizer.optimize(
        template(members.train),
        search_space=H,
        algorithm=PBT(population_size=4, random_state=1),
        trial_config=config,
        name="trained",
    )
    losses = [trial.metrics[0].min for trial in (await finished(optimizer, search)).trials]
    assert len(losses) == 24
    assert min(losses) >= BOUND
    job = await finished(optimizer, name)
    assert [trial.status for trial in job.trials] == ["complete"] * 24
    await check_lineage(optimizer, job)
    assert min(trial.metrics[0].min for trial in job.trials) < BOUND / 2
    assert [trial.parent for trial in job.trials[:4]] == [""] * 4
    assert all(trial.parent for trial in job.trials[4:])
    assert {trial.parent for trial in (await finished(optimizer, search)).trials} == {""}


async def test_with_a_slot_for_each_member_no_trial_is_decided_on_before_one_has_ended(
    optimizer: AsyncOptimizerClient,
) -> None:
    name = await optimizer.optimize(
        template(members.train),
        search_space=H,
        algorithm=PBT(population_size=3, random_state=1),
        trial_config=TrialConfig(9, 3),
        name="slots",
    )
    job = await finished(optimizer, name)
    assert [trial.status for trial in job.trials] == ["complete"] * 9
    await check_lineage(optimizer, job)
    # A driver that asks too early breaks down, and the next one goes on.
    assert (await optimizer._studies.engine.job(name)).attempt == 1


async def test_a_member_that_failed_goes_on_from_another_ones_checkpoint(optimizer: AsyncOptimizerClient) -> None:
    points = [{"h0": 0.4, "h1": 0.4}, {"h0": 0.3, "h1": 0.3}, {"h0": 0.9, "h1": 0.9}]
    name = await optimizer.optimize(
        template(members.train_or_fail),
        search_space=H,
        algorithm=PBT(population_size=3, random_state=1),
        enqueue=points,
        trial_config=TrialConfig(6),
        name="failing",
    )
    job = await finished(optimizer, name)
    assert [trial.number for trial in job.trials if trial.status != "complete"] == [2]
    assert [trial.parameters for trial in job.trials[:3]] == points
    last = job.trials[5]
    assert last.parent in ("failing-0", "failing-3", "failing-4")
    await check_lineage(optimizer, job)


async def test_a_model_counts_by_its_latest_value_which_is_that_of_its_checkpoint(
    optimizer: AsyncOptimizerClient,
) -> None:
    name = await optimizer.optimize(
        template(members.diverge),
        search_space=H,
        algorithm=PBT(population_size=2, random_state=1),
        enqueue=[{"h0": 0.9, "h1": 0.5}, {"h0": 0.1, "h1": 0.5}],
        trial_config=TrialConfig(3),
        name="diverging",
    )
    job = await finished(optimizer, name)
    assert job.trials[0].metrics[0].min < job.trials[1].metrics[0].min
    assert job.trials[2].parent == "diverging-1"


async def test_trials_that_save_nothing_have_failed_and_the_study_says_what_to_change(
    optimizer: AsyncOptimizerClient,
) -> None:
    name = await optimizer.optimize(
        template(members.forget),
        search_space=H,
        algorithm=PBT(population_size=2, random_state=1),
        trial_config=TrialConfig(3, 2),
    )
    error = await failed(optimizer, name)
    assert error.reason == "NoCompleteTrial"
    assert "kfasync.checkpoint_dir()" in str(error)
    job = await optimizer.get_job(name)
    assert [(trial.reason, trial.parent) for trial in job.trials] == [("NoCheckpoint", "")] * 3


async def test_a_suspended_population_goes_on_from_what_was_saved(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(members.train_by_halves, func_args={"wait": "halves-3"}),
        search_space=H,
        algorithm=PBT(population_size=2, random_state=1),
        trial_config=TrialConfig(6),
        name="halves",
    )
    await first(optimizer, name, TrialStarted, 4)
    async with aclosing(optimizer.get_job_logs(name, "halves-3", follow=True)) as lines:
        assert await anext(lines) == "half"
    await optimizer.suspend(name)
    assert (await optimizer.get_job(name)).status == "Suspended"
    await optimizer.resume(name)
    job = await finished(optimizer, name)
    assert [trial.status for trial in job.trials] == ["complete"] * 6
    parent = await model_of(optimizer, next(trial for trial in job.trials if trial.name == job.trials[3].parent))
    assert (await model_of(optimizer, job.trials[3]))["jobs"] == [*parent["jobs"], "half of halves-3", "halves-3"]


async def test_a_trial_that_was_lost_starts_again_from_its_parents_checkpoint(own_home: Path, tmp_path: Path) -> None:
    async with asyncio.timeout(90), AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        name = await client.optimize(
            template(members.train_once_lost, func_args={"folder": str(tmp_path)}),
            search_space=H,
            algorithm=PBT(population_size=2, random_state=1),
            trial_config=TrialConfig(4),
            name="lost",
        )
        await first(client, name, TrialStarted, 3)
        async with aclosing(client.get_job_logs(name, "lost-2", follow=True)) as lines:
            assert await anext(lines) == "begun"
        supervisor = await chaos.supervisor(own_home)
        (rank,) = chaos.ranks(await client._trials.engine.job("lost-2"))
        assert supervisor is not None
        # Nobody sees how it ends.
        chaos.kill(supervisor, signal.SIGSTOP)
        chaos.kill(rank)
        chaos.kill(supervisor)
        job = await finished(client, name)
        assert [trial.name for trial in job.trials] == ["lost-0", "lost-1", "lost-2-r1", "lost-3"]
        assert job.trials[2].parent in ("lost-0", "lost-1")
        assert "lost" in members.load(await (await client._trials.attach("lost-2")).checkpoint())["jobs"]
        await check_lineage(client, job)
        await client.delete_job(name)
        assert list((own_home / "jobs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_drivers_and_supervisors_are_killed_and_no_checkpoint_is_lost_and_no_trial_runs_twice(
    own_home: Path, tmp_path: Path, seed: int
) -> None:
    trials = 30
    async with asyncio.timeout(100), AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        name = await client.optimize(
            template(members.train_and_tell, func_args={"folder": str(tmp_path)}),
            search_space=H,
            algorithm=PBT(population_size=4, random_state=seed),
            trial_config=TrialConfig(trials, 3),
            name="fire",
        )
        left = 6

        async def victims() -> list[chaos.Identity]:
            nonlocal left
            if left % 3 == 0:
                serving = await chaos.supervisor(own_home)
                found = [] if serving is None else [serving]
            else:
                found = chaos.ranks(await client._studies.engine.job(name))
            left -= bool(found)
            return found if left >= 0 else []

        async with asyncio.TaskGroup() as group:
            killer = chaos.Killer(victims, seed=seed, probability=0.08)
            strikes = group.create_task(killer.run(client._trials.events()))
            job = await client.wait_for_job_status(name, timeout=90)
            strikes.cancel()
        assert len(killer.killed) >= 3
        assert [trial.status for trial in job.trials] == ["complete"] * trials
        await check_lineage(client, job)
        events = await client._studies.engine.history((await client._studies.engine.job(name)).uid)
        started = collections.Counter(event.number for event in events if isinstance(event, TrialStarted))
        ended = collections.Counter(event.number for event in events if isinstance(event, TrialEnded))
        assert started == ended == collections.Counter(range(trials))
        for trial in job.trials:
            assert (tmp_path / trial.name).read_text().split() == ["began", "ended"]
        await client.delete_job(name)
        assert list((own_home / "jobs").iterdir()) == []
    verify(own_home / "journal.sqlite3")


async def test_a_trial_that_was_decided_on_and_not_created_gets_its_parents_checkpoint_from_the_next_driver(
    own_home: Path,
) -> None:
    async with asyncio.timeout(90), AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        name = await client.optimize(
            template(members.train_by_halves, func_args={"wait": "between-2"}),
            search_space=H,
            algorithm=PBT(population_size=2, random_state=1),
            trial_config=TrialConfig(5),
            name="between",
        )
        await first(client, name, TrialStarted, 3)
        async with aclosing(client.get_job_logs(name, "between-2", follow=True)) as lines:
            assert await anext(lines) == "half"
        # As if the driver had decided it and died: this one knows nothing of it, the next one finds the record.
        known = await client._studies.engine.job(name)
        decided = TrialStarted(
            place=known.place,
            job=name,
            uid=known.uid,
            number=3,
            trial="between-3",
            parameters={"h0": 0.5, "h1": 0.5},
            notes={"member": 1, "stretch": 1, "parent": 1},
            parent="between-1",
        )
        assert await client._studies.engine.record(decided)
        (driver,) = chaos.ranks(known)
        chaos.kill(driver)
        ended = await first(client, name, TrialEnded, 3)
        assert ended[-1].number == 3
        for rank in chaos.ranks(await client._trials.engine.job("between-2")):
            chaos.kill(rank)
        job = await finished(client, name)
        assert [trial.status for trial in job.trials] == ["complete", "complete", "failed", "complete", "complete"]
        assert [trial.name for trial in job.trials] == [f"between-{number}" for number in range(5)]
        assert job.trials[3].parent == "between-1"
        await check_lineage(client, job)


async def test_a_place_that_hands_no_checkpoints_on_refuses_a_population(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "checkpoints", False)
    async with AsyncOptimizerClient(FakeBackendConfig()) as client:
        with pytest.raises(UnsupportedError, match="checkpoint"):
            await client.optimize(
                template(members.train), search_space=H, algorithm=PBT(population_size=2), trial_config=TrialConfig(4)
            )
        assert await client.list_jobs() == []
