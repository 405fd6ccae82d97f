"""Time marks and the limit of a job's output."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kfasync.backends.base import LogLine, LogQuery
from kfasync.backends.local._logs import read_logs
from kfasync.backends.local._marks import MARK_SIZE, Marks, read_marks
from kfasync.inotify import FileWatch
from kfasync.state import JobState

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@contextlib.asynccontextmanager
async def running(limit: int = 1 << 30) -> AsyncIterator[Marks]:
    marks = Marks(limit)
    task = asyncio.create_task(marks.run())
    await asyncio.sleep(0)
    try:
        yield marks
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    path = tmp_path / "job" / "attempt-1"
    path.mkdir(parents=True)
    return path


def append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, data)
    os.close(fd)


def recorded(attempt: Path) -> list[tuple[int, int, int]]:
    """The marks without their times."""
    return [(rank, stream, size) for _, rank, stream, size in read_marks(attempt / "marks", 0)]


async def marked(attempt: Path, count: int) -> list[tuple[float, int, int, int]]:
    """Wait for so many marks."""
    async with FileWatch() as watch:
        watch.add(attempt)
        while len(found := read_marks(attempt / "marks", 0)) < count:
            await asyncio.wait_for(watch.wait(), 10)
        return found


async def lines(attempt: Path, **query: object) -> list[LogLine]:
    job = JobState(place="local:test", name="demo", uid="u")
    return [line async for line in read_logs(attempt.parent, job, LogQuery(**query), asyncio.Event())]


async def test_output_is_marked_with_its_time_rank_stream_and_size(attempt: Path) -> None:
    async with running() as marks:
        marks.add(attempt, range(2))
        append(attempt / "rank-1.stderr", b"four")
        [(when, *rest)] = await marked(attempt, 1)
        assert rest == [1, 1, 4]
        assert abs(when - time.time()) < 5
        append(attempt / "rank-0.stdout", b"12")
        assert [tuple(rest) for _, *rest in await marked(attempt, 2)] == [(1, 1, 4), (0, 0, 2)]


async def test_a_flood_is_marked_at_most_every_quarter_of_a_second(attempt: Path) -> None:
    path = attempt / "rank-0.stdout"
    async with running() as marks:
        marks.add(attempt, [0])
        begin = time.monotonic()
        while time.monotonic() - begin < 0.6:
            append(path, b"x" * 100)
            await asyncio.sleep(0)
        marks.remove(attempt)
    found = recorded(attempt)
    assert 3 <= len(found) <= 2 + (time.monotonic() - begin) / 0.25
    assert found[-1] == (0, 0, path.stat().st_size)


async def test_a_file_is_not_watched_between_two_marks(attempt: Path) -> None:
    def watches() -> int:
        infos = [p.read_text() for p in Path("/proc/self/fdinfo").iterdir() if p.exists()]
        return sum(info.count("inotify wd:") for info in infos)

    async with running() as marks:
        before = watches()
        marks.add(attempt, [0])
        assert watches() == before + 3
        append(attempt / "rank-0.stdout", b"x")
        for _ in range(100):
            if (attempt / "marks").exists():
                break
            await asyncio.sleep(0)
        assert watches() == before + 2
        append(attempt / "rank-0.stdout", b"y")
        assert [size for _, _, _, size in await marked(attempt, 2)] == [1, 2]


async def test_the_end_of_an_attempt_marks_what_is_left(attempt: Path) -> None:
    async with running() as marks:
        marks.add(attempt, [0])
        append(attempt / "rank-0.stdout", b"last words")
        marks.remove(attempt)
        assert recorded(attempt) == [(0, 0, 10)]


async def test_an_attempt_added_before_the_start_is_marked(attempt: Path) -> None:
    marks = Marks(1 << 30)
    marks.add(attempt, [0])
    append(attempt / "rank-0.stdout", b"early")
    task = asyncio.create_task(marks.run())
    assert [size for _, _, _, size in await marked(attempt, 1)] == [5]
    task.cancel()
    await asyncio.wait([task])


async def test_a_new_supervisor_goes_on_behind_a_torn_mark(attempt: Path) -> None:
    path = attempt / "rank-0.stdout"
    append(path, b"first\n")
    async with running() as marks:
        marks.add(attempt, [0])
    with (attempt / "marks").open("ab") as file:
        file.write(b"torn")
    append(path, b"unseen\n")
    os.utime(path, (1000, 1000))
    async with running() as marks:
        marks.add(attempt, [0])
    assert (attempt / "marks").stat().st_size == 2 * MARK_SIZE
    assert recorded(attempt) == [(0, 0, 6), (0, 0, 13)]
    # Nobody looked when it was written, but the file knows.
    assert read_marks(attempt / "marks", MARK_SIZE)[0][0] == 1000


async def test_a_deleted_job_does_not_stop_the_others(attempt: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "attempt-1"
    other.mkdir(parents=True)
    async with running() as marks:
        marks.add(attempt, [0])
        marks.add(other, [0])
        for path in attempt.iterdir():
            path.unlink()
        attempt.rmdir()
        append(other / "rank-0.stdout", b"alive")
        assert len(await marked(other, 1)) == 1
        marks.remove(attempt)
        marks.remove(attempt)


async def holes(path: Path, size: int) -> None:
    """Wait until a file takes no more than so many bytes of the disk."""
    async with FileWatch() as watch:
        watch.add(path)
        while path.stat().st_blocks * 512 > size:
            await asyncio.wait_for(watch.wait(), 10)


async def test_the_oldest_output_of_the_largest_file_goes_at_the_limit(attempt: Path) -> None:
    big, small = attempt / "rank-0.stdout", attempt / "rank-0.stderr"
    async with running(limit=MIB) as marks:
        marks.add(attempt, [0])
        append(small, b"keep me\n")
        append(big, b"".join(b"line %09d\n" % n for n in range(2 * MIB // 15)))
        await holes(big, MIB)
    assert big.stat().st_size > MIB
    found = await lines(attempt)
    assert [line.stream for line in found].count("gap") == 1
    assert [line.text for line in found if line.stream == "stderr"] == ["keep me"]
    kept = [line for line in found if line.stream == "stdout"]
    assert kept[-1].text == f"line {2 * MIB // 15 - 1:09d}"
    assert MIB // 2 < len(kept) * 15 <= MIB


async def test_the_limit_counts_earlier_attempts(attempt: Path) -> None:
    append(attempt / "rank-0.stdout", b"x" * (3 * MIB))
    second = attempt.parent / "attempt-2"
    second.mkdir()
    async with running(limit=4 * MIB) as marks:
        marks.add(second, [0])
        append(second / "rank-0.stdout", b"y" * (2 * MIB))
        await holes(attempt / "rank-0.stdout", 2 * MIB)
    assert (second / "rank-0.stdout").stat().st_blocks * 512 >= MIB


async def test_output_at_the_very_end_is_trimmed_too(attempt: Path) -> None:
    path = attempt / "rank-0.stdout"
    async with running(limit=MIB) as marks:
        marks.add(attempt, [0])
        append(path, b"x" * (3 * MIB))
        marks.remove(attempt)
        await holes(path, MIB)


class Warnings(logging.Handler):
    """The warnings of kfasync, and an event to wait for the first."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.first = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.first.set()


@pytest.fixture
async def warnings() -> AsyncIterator[Warnings]:
    handler = Warnings()
    logger = logging.getLogger("kfasync")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def test_a_limit_that_can_not_be_enforced_is_told_once(attempt: Path, warnings: Warnings) -> None:
    # A sealed memory file refuses holes, as a file system without them does.
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"x" * (3 * MIB))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    other = attempt.parent.parent / "other" / "attempt-1"
    other.mkdir(parents=True)
    for directory in (attempt, other):
        (directory / "rank-0.stdout").symlink_to(f"/proc/self/fd/{fd}")
    async with running(limit=MIB) as marks:
        marks.add(attempt, [0])
        await asyncio.wait_for(warnings.first.wait(), 10)
        marks.add(other, [0])
        append(other / "rank-0.stderr", b"x" * MIB)
        assert len(await marked(other, 2)) == 2
        marks.remove(other)
    os.close(fd)
    assert ["log_limit_unenforced" in text for text in warnings.texts] == [True]
