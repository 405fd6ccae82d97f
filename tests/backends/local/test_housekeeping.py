"""What the local place leaves when nobody needs it: an idle supervisor ends, jobs beyond the limits go."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.events import JobDeleted
from kfasync.testing import chaos
from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio


def nothing() -> None:
    """A job that ends at once."""


async def test_an_idle_supervisor_ends_and_its_zygotes_with_it(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFASYNC_IDLE_TIMEOUT", "0.2")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        await (await client.submit(train_func=nothing)).wait(timeout=60)
        serving, zygotes = await chaos.supervisor(own_home), await chaos.zygotes(own_home)
        assert serving is not None
        assert zygotes
    for process in (serving, *zygotes):
        await chaos.ended(process)


async def test_the_oldest_ended_jobs_go_beyond_the_limit(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFASYNC_KEEP_JOBS", "2")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        for number in range(4):
            await (await client.submit(train_func=nothing, name=f"job-{number}")).wait(timeout=60)
        deleted = set()
        async with asyncio.timeout(60), contextlib.aclosing(client.events(since=0)) as events:
            async for event in events:
                deleted |= {event.job} if isinstance(event, JobDeleted) else set()
                if deleted == {"job-0", "job-1"}:
                    break
        assert [job.name for job in await client.list_jobs()] == ["job-2", "job-3"]
    assert len(list((own_home / "jobs").iterdir())) == 2
