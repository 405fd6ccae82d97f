"""A home, or a part of it, that somebody removes while it is in use."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import BackendError, JobFailedError, JobNotFoundError
from kfasync.testing import chaos
from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio


def wait_for_ever() -> None:
    import threading

    threading.Event().wait()


def wait_for_a_file() -> str:
    import os

    os.mkfifo("fifo")
    print("ready", flush=True)
    with open("fifo") as fifo:
        return fifo.read()


async def test_a_client_goes_on_in_a_home_that_was_removed_under_it(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        before = await client.submit(train_func=lambda: 1)
        assert await before.result() == 1
        shutil.rmtree(own_home)
        for number in range(2):
            handle = await client.submit(train_func=lambda number: number, func_args={"number": number})
            assert await handle.result() == number
        with pytest.raises(JobNotFoundError):
            await before.state()
        assert [job.name for job in await client.list_jobs()][-1] == handle.name


async def test_the_supervisor_and_the_jobs_of_a_removed_home_end(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=wait_for_ever)
        [rank] = chaos.ranks(await handle.wait({"Running"}, timeout=60))
        serving = await chaos.supervisor(own_home)
        assert serving is not None
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(0)
        shutil.rmtree(own_home)
        await chaos.ended(rank)
        await chaos.ended(serving)
        with pytest.raises((JobFailedError, BackendError)):
            await waiting
        assert await (await client.submit(train_func=lambda: 1)).result() == 1


async def test_a_job_goes_on_with_the_next_supervisor_when_only_the_socket_was_removed(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=wait_for_a_file)
        async for line in handle.logs(follow=True):
            assert line.text == "ready"
            break
        serving = await chaos.supervisor(own_home)
        assert serving is not None
        (own_home / "supervisor.sock").unlink()
        await chaos.ended(serving)
        (own_home / "jobs" / handle.uid / "node-0" / "fifo").write_text("go on")
        assert await handle.result() == "go on"
