"""A pid is nobody's for long: what was told of one process must not be believed of the next."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kfasync.backends.local._process import Identity, boot_id, start_time
from kfasync.backends.local._ranks import RankProcess
from kfasync.backends.local._reaper import Reaper

pytestmark = pytest.mark.anyio

WAIT = [sys.executable, "-c", "input()"]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(WAIT, stdin=subprocess.PIPE, start_new_session=True)
    yield process
    process.communicate()


async def test_the_end_of_an_orphan_is_not_taken_for_that_of_a_child_with_its_pid() -> None:
    reaper = Reaper()
    reaper.start()
    try:
        orphan = os.fork()
        if orphan == 0:
            os._exit(3)
        await asyncio.sleep(0.2)
        assert start_time(orphan) is None
        child = _child_with_pid(orphan)
        ended = reaper.expect(child)
        await asyncio.sleep(0.1)
        assert not ended.done()
        os.kill(child, 9)
        assert await asyncio.wait_for(ended, 10) == -9
    finally:
        reaper.stop()


def _child_with_pid(pid: int) -> int:
    """Fork a child that gets this pid, as happens by itself after some 32,000 processes."""
    for _ in range(100):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError:
            pytest.skip("the next pid can't be chosen here")
        child = os.fork()
        if child == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import threading; threading.Event().wait()"])
        if child == pid:
            return child
        os.kill(child, 9)
    pytest.skip("somebody else has the pid")


async def test_what_got_the_pid_of_a_rank_is_not_killed_with_the_ranks_tree(
    stranger: subprocess.Popen[bytes],
) -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ended.set_result(0)
    start = start_time(stranger.pid)
    assert start is not None
    rank = RankProcess(Identity(stranger.pid, start - 1, boot_id()), None, ended)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(rank.end_tree("KFASYNC_REPORT_FILE=none"), 1)
    assert start_time(stranger.pid) == start
