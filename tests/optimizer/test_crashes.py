"""Kill -9 anything at any moment: no trial is lost, none runs twice, and the study ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import collections
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import SupersededError
from kfasync.events import JobStarted, JobSubmitted, TrialEnded, TrialStarted
from kfasync.optimizer import AsyncOptimizerClient, MedianStop, Search, TrainJobTemplate, TrialConfig
from kfasync.optimizer._driver import Driver
from kfasync.optimizer._order import Order
from kfasync.state import JobState, verify
from kfasync.testing import chaos
from kfasync.trainer import CustomTrainer
from tests.optimizer.functions import report_when_told, tell_all, wait_for_ever, wait_once

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

_X = {"x": Search.uniform(0, 1)}

# A client that follows everything, to be killed while it does.
_CLIENT = """
from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import OptimizerClient
OptimizerClient(LocalProcessBackendConfig()).wait_for_job_status("chaos", callbacks=[lambda job: job.trials])
"""


def template(func: Callable[..., Any], **func_args: Any) -> TrainJobTemplate:
    return TrainJobTemplate(trainer=CustomTrainer(func=func, func_args=func_args))


@asynccontextmanager
async def opened() -> AsyncIterator[AsyncOptimizerClient]:
    async with asyncio.timeout(90), AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        yield client


async def until(client: AsyncOptimizerClient, kind: type, job: str, attempt: int = 1) -> Any:
    """Wait for the first event of a kind of a job."""
    async with aclosing(client._trials.events(since=0)) as events:
        async for event in events:
            if isinstance(event, kind) and event.job == job and event.attempt >= attempt:
                return event
    raise AssertionError("the events ended")


async def state(client: AsyncOptimizerClient, name: str) -> JobState:
    return await client._studies.engine.job(name)


async def trial_events(client: AsyncOptimizerClient, name: str) -> list[TrialStarted | TrialEnded]:
    events = await client._studies.engine.history((await state(client, name)).uid)
    return [event for event in events if isinstance(event, TrialStarted | TrialEnded)]


async def kill_driver(client: AsyncOptimizerClient, name: str) -> None:
    (driver,) = chaos.ranks(await state(client, name))
    chaos.kill(driver)
    await chaos.ended(driver)


# -------------------------------------------------------------------- at random


class Chaos:
    """Kills one kind of process after the other, at most so many."""

    def __init__(self, client: AsyncOptimizerClient, home: Path, most: int) -> None:
        self.client = client
        self.home = home
        self.left = most
        self.killed: collections.Counter[str] = collections.Counter()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _CLIENT], stderr=subprocess.DEVNULL)

    async def victims(self) -> list[chaos.Identity]:
        if self.left <= 0:
            return []
        kind = ("driver", "trial", "client", "supervisor")[self.left % 4]
        found = await getattr(self, f"_{kind}")()
        self.left -= bool(found)
        self.killed[kind] += bool(found)
        return list(found)

    async def _driver(self) -> list[chaos.Identity]:
        return chaos.ranks(await state(self.client, "chaos"))

    async def _trial(self) -> list[chaos.Identity]:
        jobs = await self.client._trials.engine.jobs()
        return [rank for job in jobs if job.status == "Running" and job.name != "chaos" for rank in chaos.ranks(job)]

    async def _client(self) -> list[chaos.Identity]:
        if self.process.poll() is not None:
            self.process = self._start()
        return [chaos.identify(self.process.pid)]

    async def _supervisor(self) -> list[chaos.Identity]:
        serving = await chaos.supervisor(self.home)
        return [] if serving is None else [serving]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_study_under_fire_has_each_outcome_once(own_home: Path, tmp_path: Path, seed: int) -> None:
    trials = 30
    async with opened() as client, asyncio.TaskGroup() as group:
        await client.optimize(
            template(tell_all, folder=str(tmp_path)),
            search_space=_X,
            trial_config=TrialConfig(trials, 4),
            name="chaos",
        )
        fire = Chaos(client, own_home, most=8)
        killer = chaos.Killer(fire.victims, seed=seed, probability=0.08)
        strikes = group.create_task(killer.run(client._trials.events()))
        try:
            job = await client.wait_for_job_status("chaos", timeout=80)
        finally:
            strikes.cancel()
            fire.close()
        assert job.status == "Complete"
        assert len(killer.killed) >= 4
        dead = set(killer.killed)
        struck = {job.name for job in await client._trials.engine.jobs() if dead & set(chaos.ranks(job))}
        check_outcomes(await trial_events(client, "chaos"), trials, tmp_path, struck)
        assert {trial.status for trial in job.trials} <= {"complete", "failed"}
        # A trial fails only when it was killed itself.
        assert sum(trial.status == "failed" for trial in job.trials) <= fire.killed["trial"]
        await client.delete_job("chaos")
        assert list((own_home / "jobs").iterdir()) == []
    verify(own_home / "journal.sqlite3")


def check_outcomes(events: list[TrialStarted | TrialEnded], trials: int, folder: Path, struck: set[str]) -> None:
    """Each trial has one outcome, and ran to its end once; ``struck`` are the jobs whose rank was killed."""
    ends = {event.number: event.outcome for event in events if isinstance(event, TrialEnded)}
    assert sorted(event.number for event in events if isinstance(event, TrialEnded)) == list(range(trials))
    firsts = [event.number for event in events if isinstance(event, TrialStarted) and event.retry == 0]
    assert firsts == list(range(trials))
    finished: collections.Counter[int] = collections.Counter()
    starts = [event for event in events if isinstance(event, TrialStarted)]
    for event in events:
        if isinstance(event, TrialStarted):
            told = folder / event.trial
            words = told.read_text().split() if told.exists() else []
            assert words in ([], ["began"], ["began", "ended"]), (event.trial, words)
            # One that was killed behind its last line, before it could say how it ended, may have to run again.
            again = any(e.number == event.number and e.retry > event.retry for e in starts)
            assert not (again and "ended" in words) or event.trial in struck, event.trial
            finished[event.number] += words.count("ended") if not again else 0
    assert max(finished.values()) == 1
    assert all(finished[number] == 1 for number, outcome in ends.items() if outcome == "complete")


# -------------------------------------------------------------------- step by step


async def test_a_trial_that_was_recorded_and_not_created_is_created_by_the_next_driver(own_home: Path) -> None:
    async with opened() as client:
        name = await client.optimize(
            template(wait_for_ever), search_space=_X, trial_config=TrialConfig(2), name="between"
        )
        await until(client, JobStarted, "between-0")
        # As if the driver had decided it and died: this one knows nothing of it, the next one finds the record.
        known = await state(client, name)
        decided = TrialStarted(
            place=known.place, job=name, uid=known.uid, number=1, trial="between-1", parameters={"x": 0.5}
        )
        assert await client._studies.engine.record(decided)
        await kill_driver(client, name)
        await until(client, JobStarted, "between-1")
        assert [event.number for event in await trial_events(client, name)] == [0, 1]
        assert (await client.get_job(name)).trials[1].parameters == {"x": 0.5}
        await client.delete_job(name)


async def test_a_running_trial_is_followed_on_by_the_next_driver(own_home: Path, tmp_path: Path) -> None:
    async with opened() as client:
        name = await client.optimize(
            template(wait_once, folder=str(tmp_path)), search_space=_X, trial_config=TrialConfig(3), name="on"
        )
        ranks = chaos.ranks(await (await client._trials.attach((await until(client, JobStarted, "on-0")).job)).state())
        await kill_driver(client, name)
        await until(client, JobStarted, name, attempt=2)
        assert chaos.ranks(await client._trials.engine.job("on-0")) == ranks
        async with aclosing(client.get_job_logs(name, "on-0", follow=True)) as lines:
            assert await anext(lines) == "begun"
        chaos.kill(ranks[0])
        job = await client.wait_for_job_status(name, timeout=60)
        assert [(trial.status, trial.name) for trial in job.trials] == [
            ("failed", "on-0"),
            ("complete", "on-1"),
            ("complete", "on-2"),
        ]


async def test_a_trial_that_was_lost_is_tried_again_and_is_no_failure(own_home: Path, tmp_path: Path) -> None:
    async with opened() as client:
        name = await client.optimize(
            template(wait_once, folder=str(tmp_path)),
            search_space=_X,
            trial_config=TrialConfig(2, max_failed_trials=0),
            name="lost",
        )
        await until(client, TrialStarted, name)
        async with aclosing(client.get_job_logs(name, "lost-0", follow=True)) as lines:
            assert await anext(lines) == "begun"
        supervisor = await chaos.supervisor(own_home)
        (rank,) = chaos.ranks(await client._trials.engine.job("lost-0"))
        assert supervisor is not None
        # Nobody sees how it ends.
        chaos.kill(supervisor, signal.SIGSTOP)
        chaos.kill(rank)
        chaos.kill(supervisor)
        job = await client.wait_for_job_status(name, timeout=60)
        assert [(trial.name, trial.status) for trial in job.trials] == [
            ("lost-0-r1", "complete"),
            ("lost-1", "complete"),
        ]
        assert (await client._trials.get_job("lost-0")).reason == "Lost"
        first = [line async for line in client.get_job_logs(name, "lost-0")]
        assert first == ["begun"]
        await client.delete_job(name)
        assert list((own_home / "jobs").iterdir()) == []


async def test_a_late_driver_of_an_older_attempt_is_refused(own_home: Path) -> None:
    async with opened() as client:
        name = await client.optimize(template(wait_for_ever), search_space=_X, trial_config=TrialConfig(4), name="late")
        await until(client, JobStarted, "late-0")
        order = an_order(wait_for_ever, TrialConfig(4))
        late = Driver(order, client._studies.engine, client._trials, name, attempt=1)
        await late._take_up()
        await kill_driver(client, name)
        await until(client, JobStarted, name, attempt=2)
        known = await trial_events(client, name)
        with pytest.raises(SupersededError):
            await late._record(TrialStarted(**late._header(), number=1, trial="late-1", parameters={"x": 0.5}))
        with pytest.raises(SupersededError):
            await Driver(order, client._studies.engine, client._trials, name, attempt=1).run()
        assert await trial_events(client, name) == known
        assert [job.name for job in await client._trials.list_jobs()] == ["late-0"]
        await client.delete_job(name)


def an_order(func: Callable[..., Any], config: TrialConfig) -> Order:
    return Order.of(
        template(func),
        _X,
        objectives=None,
        algorithm=None,
        config=config,
        stopping=None,
        rules=None,
        enqueued=(),
        backend=LocalProcessBackendConfig(),
    )


async def test_a_study_that_is_cancelled_while_it_has_no_driver_leaves_no_trial(own_home: Path) -> None:
    async with opened() as client:
        name = await client.optimize(
            template(wait_for_ever), search_space=_X, trial_config=TrialConfig(2, 2), name="orphans"
        )
        await until(client, JobStarted, "orphans-0")
        await until(client, JobStarted, "orphans-1")
        await kill_driver(client, name)
        await client.cancel(name)
        jobs = await client._trials.list_jobs()
        for job in jobs:
            await client._trials.wait_for_job_status(job.name, {"Failed"}, timeout=30)
        assert len(jobs) == 2
        await client.delete_job(name)


async def test_a_driver_that_was_only_asked_to_go_is_followed_by_another_one(own_home: Path) -> None:
    async with opened() as client:
        name = await client.optimize(
            template(wait_for_ever), search_space=_X, trial_config=TrialConfig(1), name="asked"
        )
        await until(client, JobStarted, "asked-0")
        (driver,) = chaos.ranks(await state(client, name))
        chaos.kill(driver, signal.SIGTERM)
        await until(client, JobStarted, name, attempt=2)
        assert (await client._trials.get_job("asked-0")).status == "Running"
        await client.delete_job(name)


async def test_the_next_driver_stops_early_by_what_the_one_before_it_saw(own_home: Path) -> None:
    async with opened() as client:
        name = await client.optimize(
            template(report_when_told),
            search_space=_X,
            enqueue=[{"x": 0.2}, {"x": 0.1}, {"x": 0.9}],
            early_stopping=MedianStop(n_startup_trials=2, n_warmup_steps=0),
            trial_config=TrialConfig(3),
            name="memory",
        )
        await until(client, JobStarted, "memory-2")
        async with aclosing(client.get_job_logs(name, "memory-2", follow=True)) as lines:
            assert await anext(lines) == "ready"
        await kill_driver(client, name)
        await until(client, JobStarted, name, attempt=2)
        uid = (await until(client, JobSubmitted, "memory-2")).uid
        await asyncio.to_thread((own_home / "jobs" / uid / "node-0" / "fifo").write_text, "go")
        job = await client.wait_for_job_status(name, timeout=60)
        assert [trial.status for trial in job.trials] == ["complete", "complete", "pruned"]
