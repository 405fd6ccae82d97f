from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kfasync import payload as payloads
from kfasync.engine import Engine
from kfasync.errors import JournalError
from kfasync.jobs import JobSpec
from kfasync.testing import FakeBackend, FakeWorld
from kfasync.testing.replay import replaying, verify_journals
from tests.conftest import FALSIFIED

pytestmark = pytest.mark.anyio


async def record(path: Path) -> None:
    async with Engine(FakeBackend(FakeWorld(auto=True)), path) as engine:
        await (await engine.submit(JobSpec(name="demo"), payloads.none())).wait()


def falsify(path: Path) -> None:
    """Change one recorded state, as a defect of the engine would."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET state_hash = (SELECT state_hash FROM events WHERE cursor = 1)")
    connection.close()
    (path.parent / FALSIFIED).touch()


async def test_every_journal_below_a_directory_is_verified(tmp_path: Path) -> None:
    paths = [tmp_path / home / "journal.sqlite3" for home in ("a", "b")]
    for path in paths:
        await record(path)
    assert verify_journals(tmp_path) == paths


async def test_a_journal_that_does_not_replay_fails_the_block(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    await record(path)
    with replaying(tmp_path):
        pass
    falsify(path)
    with pytest.raises(JournalError), replaying(tmp_path):
        pass


async def test_a_home_without_a_journal_is_fine(tmp_path: Path) -> None:
    with replaying(tmp_path / "none"):
        pass
