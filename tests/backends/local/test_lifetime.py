"""What ends by itself, and when: jobs with a time to live, old history, supervisors that nobody needs or that fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.backends.local._backend import LocalBackend
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.errors import BackendUnavailableError, InvalidSpecError
from kfasync.events import JobDeleted, JobSubmitted
from kfasync.jobs import JobSpec
from kfasync.payload import Payload
from kfasync.state import Journal
from kfasync.trainer import AsyncTrainerClient
from tests.backends.local.conftest import supervisor_status

pytestmark = pytest.mark.anyio


async def gone(journal: Journal, name: str) -> None:
    """Wait until nobody has a job of that name."""
    after = 0
    while await journal.job(Home(journal._path.parent).place, name) is not None:
        after = await journal.changed(max(after, await journal.head()))


async def test_a_job_outlives_its_time_to_live_by_nothing_though_its_supervisor_has_nothing_else_to_do(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFASYNC_IDLE_TIMEOUT", "0.2")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=lambda: None, ttl=1.0)
        await handle.wait()
    journal = await Journal.open(own_home / "journal.sqlite3")
    try:
        async with asyncio.timeout(30):
            await gone(journal, handle.name)
    finally:
        await journal.aclose()
    assert not Home(own_home).job(handle.uid).root.exists()


async def test_history_of_jobs_deleted_long_ago_leaves_the_journal(own_home: Path) -> None:
    long_ago = time.time() - 365 * 86400
    place = Home(own_home).place
    header: dict[str, Any] = {"place": place, "job": "old", "uid": "u", "time": long_ago}
    journal = await Journal.open(own_home / "journal.sqlite3")
    try:
        await journal.append([JobSubmitted(**header, spec={"name": "old"}, digest="d"), JobDeleted(**header)])
        await supervisor_status(own_home)
        assert await journal.job_by_uid("u") is None
        assert await journal.events() == []
    finally:
        await journal.aclose()


class _Dying:
    """A link to supervisors that die as soon as they are there."""

    def __init__(self) -> None:
        self.starts = 0

    async def connected(self) -> Awaitable[None]:
        self.starts += 1
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_result(None)
        return lost


async def test_a_supervisor_that_dies_right_after_each_start_is_an_error_and_not_started_in_a_loop(
    own_home: Path,
) -> None:
    backend = LocalBackend(LocalProcessBackendConfig())
    journal = await Journal.open(own_home / "journal.sqlite3")
    try:
        header: dict[str, Any] = {"place": backend.place, "job": "demo", "uid": "u", "time": time.time()}
        await journal.append([JobSubmitted(**header, spec={"name": "demo"}, digest="d")])
        await backend.open(journal)
        dying = _Dying()
        backend._link = cast("Link", dying)
        for tries in (2, 3, 4):
            with pytest.raises(BackendUnavailableError, match=r"ends right after its start; see .*supervisor\.log"):
                async for _ in backend.watch():
                    pass
            assert dying.starts == tries
    finally:
        await journal.aclose()


async def test_a_payload_that_no_message_can_hold_is_refused_with_what_to_do(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kfasync.backends.local._backend._PAYLOAD_LIMIT", 1 << 20)
    payload = Payload(kind="function", name="train", data=b"x" * (2 << 20))
    with pytest.raises(InvalidSpecError, match="are 2 MiB, more than 1: put the data into a file and pass its path"):
        LocalBackend(LocalProcessBackendConfig()).check(JobSpec(name="demo"), payload)
