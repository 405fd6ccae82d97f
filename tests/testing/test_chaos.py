from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kfasync.testing.chaos import Identity, Killer, ended, identify, kill, leaks, supervisor, zygotes

WAIT = "import threading; threading.Event().wait()"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen([sys.executable, "-S", "-c", WAIT]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_a_process_is_killed_and_reported_dead(processes: list[subprocess.Popen[bytes]]) -> None:
    victim = identify(processes[0].pid)
    assert kill(victim)
    assert processes[0].wait() == -signal.SIGKILL
    assert not kill(victim)


def test_a_stranger_with_the_same_pid_is_spared(processes: list[subprocess.Popen[bytes]]) -> None:
    real = identify(processes[0].pid)
    assert not kill(real._replace(start=real.start - 1))
    assert not kill(real._replace(boot="another boot"))
    assert processes[0].poll() is None


def test_nobody_has_the_pid_of_a_process_that_was_reaped(processes: list[subprocess.Popen[bytes]]) -> None:
    processes[0].kill()
    processes[0].wait()
    with pytest.raises(ProcessLookupError):
        identify(processes[0].pid)


@pytest.mark.anyio
async def test_the_end_of_a_process_can_be_awaited(processes: list[subprocess.Popen[bytes]]) -> None:
    victim = identify(processes[0].pid)
    waiting = asyncio.ensure_future(ended(victim))
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done
    kill(victim)
    await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(ended(victim), 10)


async def moments(count: int) -> AsyncIterator[int]:
    for moment in range(count):
        yield moment


@pytest.mark.anyio
async def test_a_killer_with_the_same_seed_kills_the_same(processes: list[subprocess.Popen[bytes]]) -> None:
    everybody = [identify(process.pid) for process in processes]

    async def victims() -> list[Identity]:
        return everybody

    killers = [Killer(victims, seed=3, probability=0.5, sig=0) for _ in range(2)]
    for killer in killers:
        await killer.run(moments(20))
    assert killers[0].killed == killers[1].killed
    assert 1 < len(killers[0].killed) < 20


@pytest.mark.anyio
async def test_a_killer_without_living_victims_does_nothing() -> None:
    async def victims() -> list[Identity]:
        return []

    assert await Killer(victims, seed=1).strike() is None


@pytest.mark.anyio
async def test_a_home_that_nobody_serves_has_no_supervisor_and_no_zygotes(home: Path) -> None:
    assert await supervisor(home) is None
    assert await zygotes(home) == []
    assert not home.exists()


def test_a_clean_block_leaves_nothing(tmp_path: Path) -> None:
    with leaks(tmp_path):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)


def test_a_thread_that_stays_is_a_leak() -> None:
    stop = threading.Event()
    try:
        with pytest.raises(AssertionError, match="thread worker-that-stays"), leaks(patience=0.01):
            threading.Thread(target=stop.wait, name="worker-that-stays").start()
    finally:
        stop.set()


def test_a_child_that_stays_is_a_leak() -> None:
    started = []
    try:
        with pytest.raises(AssertionError, match=r"process .*Event"), leaks(patience=0.01):
            started.append(subprocess.Popen([sys.executable, "-S", "-c", WAIT]))
    finally:
        started[0].kill()
        started[0].wait()


def test_an_open_descriptor_is_a_leak() -> None:
    opened: list[int] = []
    try:
        with pytest.raises(AssertionError, match=r"descriptor .*pipe"), leaks(patience=0.01):
            opened.extend(os.pipe())
    finally:
        for fd in opened:
            os.close(fd)


def test_a_new_directory_is_a_leak_unless_it_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"directory entry .*/left"), leaks(tmp_path):
        (tmp_path / "left").mkdir()
    with leaks(tmp_path, allow=["kept"]):
        (tmp_path / "kept").mkdir()


@pytest.mark.anyio
async def test_a_task_that_stays_is_a_leak() -> None:
    with pytest.raises(AssertionError, match="task the-one-that-stays"):
        async with leaks(patience=0.01):
            task = asyncio.create_task(asyncio.Event().wait(), name="the-one-that-stays")
    task.cancel()


@pytest.mark.anyio
async def test_a_task_that_is_just_ending_is_no_leak() -> None:
    async with leaks():
        asyncio.create_task(asyncio.sleep(0)).add_done_callback(lambda _: None)


def test_an_error_in_the_block_is_not_hidden_by_a_leak(tmp_path: Path) -> None:
    def leak_and_fail() -> None:
        (tmp_path / "left").mkdir()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), leaks(tmp_path):
        leak_and_fail()
