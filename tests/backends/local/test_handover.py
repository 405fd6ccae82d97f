"""Checkpoints that one job of local processes leaves to another, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.engine import JobHandle
from kfasync.inotify import FileWatch
from kfasync.testing import chaos
from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio

#: So much that its copy is seen while it is made.
_LARGE = 256 << 20


def save(size: int = 4) -> None:
    import kfasync

    with open(kfasync.checkpoint_dir() / "model", "wb") as file:
        file.truncate(size)
        file.seek(size - 4)
        file.write(b"done")


def look() -> tuple[int, bytes]:
    import kfasync

    with open(kfasync.checkpoint_dir() / "model", "rb") as file:
        size = file.seek(-4, 2) + 4
        return size, file.read()


def ranks_meet() -> list[str]:
    """Each rank leaves its number; the last one to come tells of all."""
    import os

    import kfasync

    folder = kfasync.checkpoint_dir()
    (folder / os.environ["RANK"]).touch()
    return sorted(path.name for path in folder.iterdir())


def count_starts() -> int:
    """Waits at its first start, and ends at the second."""
    import signal

    import kfasync

    path = kfasync.checkpoint_dir() / "starts"
    starts = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(starts))
    if starts == 1:
        print("begun", flush=True)
        signal.pause()
    return starts


async def test_all_ranks_of_a_job_share_one_directory(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=ranks_meet, num_nodes=2, num_proc_per_node=2)
    assert ["0", "1", "2", "3"] in (await handle.results()).values()


async def test_a_suspended_job_finds_its_checkpoint_when_it_is_resumed(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=count_starts)
    lines = handle.logs(follow=True)
    assert (await anext(lines)).text == "begun"
    await lines.aclose()
    await handle.suspend()
    await handle.wait({"Suspended"}, timeout=30)
    await handle.resume()
    assert await handle.result() == 2


async def test_a_job_that_has_started_needs_its_parent_no_more(client: AsyncTrainerClient) -> None:
    parent = await client.submit(train_func=save)
    await parent.wait(timeout=60)
    child = await client.submit(train_func=count_starts, checkpoint_from=parent.name)
    lines = child.logs(follow=True)
    assert (await anext(lines)).text == "begun"
    await lines.aclose()
    await child.suspend()
    await child.wait({"Suspended"}, timeout=30)
    await parent.delete()
    await child.resume()
    assert await child.result() == 2
    assert (await child.checkpoint() / "model").read_bytes() == b"done"


async def test_a_job_that_has_not_ended_gives_nothing_away(client: AsyncTrainerClient) -> None:
    parent = await client.submit(train_func=count_starts)
    lines = parent.logs(follow=True)
    assert (await anext(lines)).text == "begun"
    await lines.aclose()
    child = await client.submit(train_func=look, checkpoint_from=parent.name)
    state = await child.wait({"Failed"}, timeout=30)
    assert (state.reason, "has not ended" in state.message) == ("NoCheckpoint", True)
    assert state.ranks == ()
    await parent.cancel()


async def copying(client: AsyncTrainerClient, home: Path) -> tuple[JobHandle, Path]:
    """A job whose checkpoint is just being copied, and its directory."""
    parent = await client.submit(train_func=save, func_args={"size": _LARGE})
    await parent.wait(timeout=60)
    async with FileWatch() as watch:
        watch.add(home / "jobs", content=False)
        child = await client.submit(train_func=look, checkpoint_from=parent.name)
        folder = home / "jobs" / child.uid
        watch.add(folder, content=False)
        while not (folder / "checkpoint.young").exists():
            await watch.wait()
    assert not (folder / "checkpoint").exists()
    return child, folder


@pytest.mark.slow
async def test_a_supervisor_that_is_killed_while_it_copies_leaves_no_half_checkpoint(own_home: Path) -> None:
    async with asyncio.timeout(90), AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        child, folder = await copying(client, own_home)
        supervisor = await chaos.supervisor(own_home)
        assert supervisor is not None
        chaos.kill(supervisor)
        await chaos.ended(supervisor)
        assert not (folder / "checkpoint").exists()
        assert await child.result() == (_LARGE, b"done")
        assert not (folder / "checkpoint.young").exists()


@pytest.mark.slow
async def test_a_job_can_be_stopped_and_deleted_while_its_checkpoint_is_copied(own_home: Path) -> None:
    async with asyncio.timeout(90), AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        child, folder = await copying(client, own_home)
        await child.cancel()
        assert (await child.wait({"Failed"})).reason == "Cancelled"
        assert not {"checkpoint", "checkpoint.young"} & set(os.listdir(folder))
        await child.delete()
        again, folder = await copying(client, own_home)
        await again.delete()
        assert not folder.exists()
