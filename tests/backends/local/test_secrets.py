"""A secret's value reaches the rank and nothing else that outlives the job."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from kfasync.inotify import FileWatch
from kfasync.jobs import SecretRef
from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-of-the-test"


async def private_files_gone(job: Path) -> None:
    """The supervisor removes them right behind the job's end."""
    async with FileWatch() as watch:
        watch.add(job)
        while list(job.glob("private-*")):
            await watch.wait()


def read_token() -> int:
    import os

    return len(os.environ["TOKEN"])


async def test_a_secret_reaches_the_rank_and_no_record(
    client: AsyncTrainerClient,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "kfasync")
    (tmp_path / "token").write_text(SECRET + "\n")
    handle = await client.submit(train_func=read_token, env={"TOKEN": SecretRef(file=str(tmp_path / "token"))})
    state = await handle.wait(timeout=60)
    assert await handle.result() == len(SECRET)
    assert SECRET not in repr(state)
    assert SECRET not in caplog.text
    await private_files_gone(home / "jobs" / handle.uid)
    holding = [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holding == []


async def test_credentials_of_an_index_are_not_recorded(client: AsyncTrainerClient, home: Path) -> None:
    handle = await client.submit(
        train_func=read_token,
        env={"TOKEN": "x"},
        packages_to_install=["pip>=1"],
        pip_index_urls=[f"https://me:{SECRET}@127.0.0.1:9/simple"],
    )
    state = await handle.wait(timeout=60)
    assert SECRET not in repr(state)
    await private_files_gone(home / "jobs" / handle.uid)
    holding = [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holding == []
