"""The journal between processes: at once, killed, woken, forked, on a full disk."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import JournalError
from kfasync.events import MetricReported
from kfasync.state import Journal, verify
from tests.state.conftest import Opener
from tests.state.happenings import metric, submitted

pytestmark = pytest.mark.anyio

Runner = Callable[..., Awaitable[Process]]

PREFIX = """
import asyncio, json, os, signal, sys
from pathlib import Path
from kfasync.errors import KfasyncError
from kfasync.state import Journal
from kfasync.state._store import Store
from tests.state.happenings import event, metric, submitted
path, argument = Path(sys.argv[1]), sys.argv[2]
def tell(what): print(json.dumps(what), flush=True)
def await_word(): return sys.stdin.readline()
"""


@pytest.fixture
async def process(path: Path) -> AsyncIterator[Runner]:
    """Starts processes on the test's journal; none outlives the test."""
    async with AsyncExitStack() as stack:

        async def start(body: str, argument: str = "", inside: Sequence[str] = ()) -> Process:
            command = [sys.executable, "-c", PREFIX + body, str(path), argument]
            child = await asyncio.create_subprocess_exec(*inside, *command, stdin=PIPE, stdout=PIPE)
            stack.push_async_callback(end, child)
            return child

        yield start


async def end(child: Process) -> None:
    if child.returncode is None:
        child.kill()
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    # To its end, or the pipe outlives the loop.
    await child.stdout.read()
    await child.wait()


async def told(child: Process) -> Any:
    assert child.stdout is not None
    return json.loads(await child.stdout.readline())


async def told_rest(child: Process) -> list[Any]:
    assert child.stdout is not None
    return [json.loads(line) for line in (await child.stdout.read()).splitlines()]


def go_on(child: Process) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")


@pytest.mark.slow
async def test_twenty_first_opens_at_once_all_succeed_and_a_name_is_given_once(
    process: Runner, path: Path, open_journal: Opener
) -> None:
    body = """
async def main():
    journal = await Journal.open(path)
    await journal.append([submitted(f"job-{argument}")])
    try:
        await journal.append([submitted("wanted", uid=argument, digest=argument)])
        tell("won")
    except KfasyncError as error:
        tell(type(error).__name__)
    await journal.aclose()
tell("ready"); await_word(); asyncio.run(main())
"""
    children = await asyncio.gather(*(process(body, str(n)) for n in range(20)))
    assert await asyncio.gather(*map(told, children)) == ["ready"] * 20
    for child in children:
        go_on(child)
    outcomes = await asyncio.gather(*map(told, children))
    assert sorted(outcomes) == ["JobExistsError"] * 19 + ["won"]
    journal = await open_journal()
    assert len(await journal.jobs()) == 21
    assert verify(path) == 21


async def test_processes_that_write_at_once_lose_nothing_and_record_nothing_twice(
    process: Runner, journal: Journal, path: Path
) -> None:
    await journal.append([submitted()])
    body = """
async def main():
    journal = await Journal.open(path)
    tell("ready"); await_word()
    mine = [[metric(n)] for n in range(100)] + [[metric(n, rank=int(argument))] for n in range(100)]
    outcomes = [await journal.append(group) for group in mine]
    tell(sum(outcome != [None] for outcome in outcomes))
    await journal.aclose()
asyncio.run(main())
"""
    children = [await process(body, str(rank)) for rank in (1, 2, 3)]
    await asyncio.gather(*map(told, children))
    for child in children:
        go_on(child)
    recorded = await asyncio.gather(*map(told, children))
    assert sum(recorded) == 400
    keys = [event.key for event in await journal.events()]
    assert len(keys) == len(set(keys)) == 401
    assert verify(path) == 401


async def test_what_a_killed_writer_was_told_is_recorded_and_others_go_on(
    process: Runner, journal: Journal, path: Path
) -> None:
    await journal.append([submitted()])
    body = """
async def main():
    journal = await Journal.open(path)
    for position in range(1_000_000):
        [recorded] = await journal.append([metric(position)])
        tell(recorded.cursor)
asyncio.run(main())
"""
    child = await process(body)
    answered = [await told(child) for _ in range(50)]
    child.kill()
    answered += await told_rest(child)
    head = await journal.head()
    assert head >= answered[-1]
    assert [event.cursor for event in await journal.events(limit=10**6)] == list(range(1, head + 1))
    assert await journal.append([metric(0, rank=1)]) == [metric(0, rank=1)]
    assert verify(path) == head + 1


async def test_a_writer_killed_within_a_transaction_leaves_no_trace_and_no_lock(
    process: Runner, journal: Journal
) -> None:
    await journal.append([submitted()])
    body = """
store = Store(path)
with store.writing():
    store.append([metric(0)])
    tell("writing")
    await_word()
"""
    child = await process(body)
    await told(child)
    waiting = asyncio.create_task(journal.append([metric(0, values={"loss": 2.0})]))
    await asyncio.wait([waiting], timeout=0.01)
    assert not waiting.done()
    child.kill()
    [recorded] = await asyncio.wait_for(waiting, 10)
    assert isinstance(recorded, MetricReported)
    assert recorded.values == {"loss": 2.0}


async def test_a_forked_child_does_not_keep_the_lock_of_its_dead_parent(process: Runner, journal: Journal) -> None:
    body = """
store = Store(path)
with store.writing():
    if os.fork() == 0:
        tell(os.getpid())
        await_word()
        os._exit(0)
    signal.pause()
"""
    child = await process(body)
    grandchild = await told(child)
    child.kill()
    try:
        assert await asyncio.wait_for(journal.append([submitted()]), 10) == [submitted()]
    finally:
        os.kill(grandchild, signal.SIGKILL)


async def test_events_of_another_process_wake_a_waiter_at_once(process: Runner, journal: Journal) -> None:
    await journal.append([submitted()])
    body = """
import time
async def main():
    journal = await Journal.open(path)
    tell("ready")
    for position in range(30):
        await_word()
        start = time.monotonic()
        await journal.append([metric(position)])
        tell(start)
    await journal.aclose()
asyncio.run(main())
"""
    child = await process(body)
    await told(child)
    taken = []
    for _ in range(30):
        head = await journal.head()
        waiter = asyncio.create_task(journal.changed(head))
        await asyncio.wait([waiter], timeout=0)
        go_on(child)
        assert await waiter == head + 1
        woken = time.monotonic()
        taken.append(woken - await told(child))
    # 1 ms here, from before the append. Polling could only be as fast by burning a core.
    assert statistics.median(taken) < 0.1


async def test_a_journal_left_open_keeps_no_process_and_loses_nothing(process: Runner, open_journal: Opener) -> None:
    body = """
async def main():
    global journal
    journal = await Journal.open(path)
    await journal.append([submitted()])
    asyncio.ensure_future(journal.changed(10))
    await asyncio.sleep(0)
asyncio.run(main())
"""
    child = await process(body)
    assert await asyncio.wait_for(child.wait(), 30) == 0
    assert await (await open_journal()).events() == [submitted()]


async def test_it_works_on_uvloop(process: Runner) -> None:
    pytest.importorskip("uvloop")
    body = """
import uvloop
async def main():
    journal, other = await Journal.open(path), await Journal.open(path)
    waiters = [asyncio.create_task(each.changed(0)) for each in (journal, other)]
    await asyncio.sleep(0)
    await journal.append([submitted()])
    tell(await asyncio.gather(*waiters))
    await other.aclose()
    return journal
journal = uvloop.run(main())
async def again():
    tell(await journal.changed(0))
    before = len(os.listdir("/proc/self/fd"))
    await journal.aclose()
    tell(before - len(os.listdir("/proc/self/fd")) >= 2)
uvloop.run(again())
"""
    assert await told_rest(await process(body)) == [[1, 1], 1, True]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount the small filesystem that is to be filled")
    yield where
    subprocess.run(["umount", str(where)], check=True)


async def test_a_full_disk_is_named_harms_nothing_and_is_got_over(tiny_disk: Path) -> None:
    path, ballast = tiny_disk / "journal.sqlite3", tiny_disk / "ballast"
    journal = await Journal.open(path)
    await journal.append([submitted()])
    free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
    ballast.write_bytes(bytes(free - 65536))

    async def append_until_full() -> None:
        for position in range(1000):
            await journal.append([metric(position, values={"m" * 2000: 1.0})])

    with pytest.raises(JournalError, match="no space left"):
        await append_until_full()
    recorded = len(await journal.events(limit=10_000))
    assert recorded == await journal.head()
    huge = metric(5, rank=1, values={"m" * 3_000_000: 1.0})
    sent = [*(metric(n, rank=1) for n in range(5)), huge, metric(6, rank=1)]
    outcomes = await asyncio.gather(*(journal.append([each]) for each in sent), return_exceptions=True)
    kept = [outcome for outcome in outcomes if isinstance(outcome, list)]
    assert len(kept) < len(sent)
    assert all("no space left" in str(outcome) for outcome in outcomes if outcome not in kept)
    ballast.unlink()
    assert await journal.append([metric(0, rank=2)]) == [metric(0, rank=2)]
    await journal.aclose()
    assert verify(path) == recorded + len(kept) + 1


async def test_no_room_for_a_first_journal_is_named(tiny_disk: Path) -> None:
    free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
    (tiny_disk / "ballast").write_bytes(bytes(free))
    with pytest.raises(JournalError, match=r"[Nn]o space left"):
        await Journal.open(tiny_disk / "journal.sqlite3")
    (tiny_disk / "ballast").unlink()
    await (await Journal.open(tiny_disk / "journal.sqlite3")).aclose()


async def test_a_journal_on_nfs_is_refused_with_advice(process: Runner, path: Path, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 1 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:40 / {tmp_path} rw - nfs4 server:/export rw\n")
    body = """
try:
    asyncio.run(Journal.open(path))
except KfasyncError as error:
    tell(str(error))
"""
    # The child's own list of mounts is covered by a made one, in a mount namespace that ends with it.
    covered = f'mount --bind {mounts} /proc/$$/mountinfo && exec "$@"'
    child = await process(body, inside=["unshare", "--mount", "sh", "-c", covered, "sh"])
    answers = await told_rest(child)
    if await child.wait() != 0:
        pytest.skip("only root may cover a list of mounts")
    [answer] = answers
    assert "nfs4" in answer
    assert "KFASYNC_HOME" in answer
    assert not path.exists()
