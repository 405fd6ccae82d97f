"""Faults between an engine and its place, and clients that die, on the public fake."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kfasync import payload
from kfasync.engine import Engine
from kfasync.events import Event, JobCompleted, JobDeleted, JobStarted
from kfasync.jobs import JobSpec, RestartPolicy
from kfasync.state import Status, verify
from kfasync.testing import Crashes, FakeBackend, FakeBackendConfig, FakeRank, FakeScript, FakeWorld

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fake(anyio_backend: str) -> FakeBackend:
    return FakeBackend(FakeWorld(auto=True))


@pytest.fixture
async def engine(fake: FakeBackend, journal_path: Path) -> AsyncIterator[Engine]:
    async with Engine(fake, journal_path) as engine:
        yield engine
    verify(journal_path)


@pytest.mark.parametrize("fault", ["late", "lost", "repeated", "reordered"])
@pytest.mark.parametrize("kind", [JobStarted, JobCompleted])
async def test_the_end_is_seen_once_whatever_befalls_its_events(
    engine: Engine, fake: FakeBackend, fault: str, kind: type[JobStarted | JobCompleted]
) -> None:
    inject = getattr(fake.inject, fault)
    inject(kind, 3) if fault == "late" else inject(kind)
    handle = await engine.submit(JobSpec(name="a"), payload.none())
    assert (await handle.wait(timeout=20)).status is Status.COMPLETE
    await handle.delete()
    seen: list[type[Event]] = []
    async with contextlib.aclosing(engine.events(since=0)) as events:
        while JobDeleted not in seen:
            seen.append(type(await anext(events)))
    assert seen.count(JobCompleted) == 1


async def test_a_job_that_was_removed_behind_a_lost_connection_is_lost(engine: Engine, fake: FakeBackend) -> None:
    for name in ("gone", "there"):
        fake.world.script(name, FakeScript(run=_hang))
    gone = await engine.submit(JobSpec(name="gone"), payload.none())
    there = await engine.submit(JobSpec(name="there"), payload.none())
    await gone.wait({"Running"}, timeout=20)
    fake.world.remove(gone.uid)
    fake.inject.cut()
    assert (await gone.wait({"Failed"}, timeout=20)).reason == "Lost"
    assert (await there.wait({"Running"}, timeout=20)).status is Status.RUNNING


def _hang(rank: FakeRank) -> Iterator[float]:
    yield math.inf


async def test_a_rank_that_is_killed_from_outside_starts_again_by_its_jobs_policy(
    engine: Engine, fake: FakeBackend
) -> None:
    fake.world.script("a", FakeScript(run=_hang))
    handle = await engine.submit(JobSpec(name="a", restart=RestartPolicy(max_restarts=1)), payload.none())
    for attempt in (1, 2):
        async with contextlib.aclosing(handle.changes()) as states:
            async for state in states:
                if (state.status, state.attempt) == (Status.RUNNING, attempt):
                    break
        fake.world.kill_rank("a")
    failed = await handle.wait({"Failed"}, timeout=20)
    assert failed.failure is not None
    assert (failed.reason, failed.failure.exit_code) == ("Error", -9)


async def test_a_client_that_dies_anywhere_loses_no_job(tmp_path: Path) -> None:
    step, died = 0, True
    while died:
        world, crashes = FakeWorld(auto=True), Crashes()
        crashes.at_step(step)
        path = tmp_path / f"{step}.sqlite3"
        with contextlib.suppress(BaseException):
            async with Engine(FakeBackend(FakeBackendConfig(world, crashes)), path) as engine:
                await (await engine.submit(JobSpec(name="a"), payload.none())).wait(timeout=20)
        died = crashes.dead
        async with Engine(FakeBackend(world), path) as later:
            handle = await later.submit(JobSpec(name="a"), payload.none())
            assert (await handle.wait(timeout=20)).status is Status.COMPLETE, crashes.reached
            assert world.created == ["a"]
        verify(path)
        step += 1
    assert step > 8
