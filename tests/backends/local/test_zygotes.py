"""Zygotes and the processes forked ahead, when things go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kfasync.backends.local._process import cgroup_base
from kfasync.backends.local._reaper import Reaper
from kfasync.backends.local._zygotes import Cgroups, Child, ZygoteKey, Zygotes, remove_cgroup
from kfasync.errors import BackendError
from kfasync.inotify import FileWatch

pytestmark = pytest.mark.anyio

KEY = ZygoteKey(sys.executable, (), ())


@contextlib.asynccontextmanager
async def serving(output: Path, base: Path | None = None) -> AsyncIterator[tuple[Zygotes, asyncio.TaskGroup]]:
    reaper = Reaper()
    reaper.start()
    zygotes = Zygotes(reaper, Cgroups(base), output, 60.0)
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            try:
                yield zygotes, tasks
            finally:
                await zygotes.aclose()
    finally:
        reaper.stop()


async def test_an_interpreter_that_is_gone_fails_every_job_that_wants_it(tmp_path: Path) -> None:
    key = ZygoteKey(str(tmp_path / "python"), (), ())
    async with serving(tmp_path / "log") as (zygotes, tasks):
        for _ in range(2):
            with pytest.raises(BackendError, match="python"):
                await asyncio.wait_for(zygotes.take(key, tasks), 10)
        assert zygotes.pids == []


async def test_any_number_of_jobs_may_ask_for_a_process_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "log") as (zygotes, tasks):
        zygote = zygotes.warm(KEY, tasks)
        (await zygotes.take(KEY, tasks)).dismiss()
        os.kill(zygote.process.pid, signal.SIGSTOP)
        asked = [tasks.create_task(zygotes.take(KEY, tasks)) for _ in range(60)]
        await asyncio.sleep(0.2)
        os.kill(zygote.process.pid, signal.SIGCONT)
        children: list[Child] = await asyncio.wait_for(asyncio.gather(*asked), 20)
        assert len({child.pid for child in children}) == 60
        for child in children:
            child.dismiss()


async def test_a_cgroup_that_cannot_be_made_costs_no_job(tmp_path: Path) -> None:
    async with serving(tmp_path / "log", tmp_path / "gone") as (zygotes, tasks):
        child = await asyncio.wait_for(zygotes.take(KEY, tasks), 10)
        assert child.cgroup is None
        child.dismiss()


@pytest.fixture
def base() -> Iterator[Path]:
    """A place for cgroups, removed afterwards with what is still in it."""
    path = cgroup_base(f"kfasync-test-{os.getpid()}")
    if path is None:
        pytest.skip("no cgroup v2 can be made here")
    yield path
    for group in [*path.glob("*/"), path]:
        (group / "cgroup.kill").write_text("1")
        while not remove_cgroup(group):
            time.sleep(0.01)


async def test_processes_that_nobody_wants_any_more_leave_no_cgroup(tmp_path: Path, base: Path) -> None:
    async with serving(tmp_path / "log", base) as (zygotes, tasks):
        (await zygotes.take(KEY, tasks)).dismiss()
        for _ in range(20):
            asked = tasks.create_task(zygotes.take(KEY, tasks))
            await asyncio.sleep(0)
            if not asked.cancel():
                asked.result().dismiss()
        (await zygotes.take(KEY, tasks)).dismiss()
        # What is left belongs to the processes that wait ahead.
        async with asyncio.timeout(30), FileWatch() as watch:
            watch.add(base, content=False)
            while len(list(base.glob("*/"))) > 2:
                await watch.wait()
