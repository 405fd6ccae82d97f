"""Reading the files that ranks write."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.base import LogLine, LogQuery
from kfasync.backends.local._logs import last_lines, read_logs
from kfasync.backends.local._marks import STREAMS
from kfasync.errors import InvalidSpecError
from kfasync.state import JobState

pytestmark = pytest.mark.anyio


def job(**spec: Any) -> JobState:
    return JobState(place="local:test", name="demo", uid="u", spec={"name": "demo", **spec})


def write(directory: Path, rank: int, data: bytes, stream: str = "stdout", attempt: int = 1) -> Path:
    path = directory / f"attempt-{attempt}" / f"rank-{rank}.{stream}"
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
    return path


def mark(directory: Path, when: float, rank: int, size: int, stream: str = "stdout", attempt: int = 1) -> None:
    with (directory / f"attempt-{attempt}" / "marks").open("ab") as file:
        file.write(struct.pack("<dHBQ", when, rank, STREAMS.index(stream), size))


def punch(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.fallocate(file.fileno(), 3, ctypes.c_int64(0), ctypes.c_int64(size))
        if result != 0:
            pytest.skip(f"this file system punches no holes: {os.strerror(ctypes.get_errno())}")


async def read(directory: Path, state: JobState | None = None, **query: Any) -> list[LogLine]:
    return [line async for line in read_logs(directory, state or job(), LogQuery(**query), asyncio.Event())]


async def texts(directory: Path, state: JobState | None = None, **query: Any) -> list[str]:
    return [line.text for line in await read(directory, state, **query)]


@contextlib.asynccontextmanager
async def following(
    directory: Path, state: JobState | None = None, **query: Any
) -> AsyncIterator[tuple[Callable[[], Any], asyncio.Event]]:
    done = asyncio.Event()
    async with contextlib.aclosing(read_logs(directory, state or job(), LogQuery(follow=True, **query), done)) as lines:

        async def following_line() -> LogLine:
            return await asyncio.wait_for(anext(lines), 10)

        yield following_line, done


async def test_lines_carry_what_tells_them_apart(tmp_path: Path) -> None:
    write(tmp_path, 0, b"one\ntwo\r\n")
    write(tmp_path, 0, b"three\n", "stderr")
    lines = await read(tmp_path)
    assert [(line.text, line.stream, line.position) for line in lines] == [
        ("one", "stdout", 0),
        ("two", "stdout", 4),
        ("three", "stderr", 0),
    ]
    assert {(line.node, line.rank, line.attempt) for line in lines} == {(0, 0, 1)}


async def test_a_step_selects_the_ranks_of_its_node(tmp_path: Path) -> None:
    state = job(num_nodes=2, num_proc_per_node=2)
    for rank in range(4):
        write(tmp_path, rank, b"rank %d\n" % rank)
    assert await texts(tmp_path, state, step="node-1") == ["rank 2", "rank 3"]
    merged = await read(tmp_path, state, step=None)
    assert [(line.node, line.text) for line in merged] == [(0, "rank 0"), (0, "rank 1"), (1, "rank 2"), (1, "rank 3")]
    assert await texts(tmp_path, state, step=None, rank=3) == ["rank 3"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"step": "node-2"}, "node-0, node-1"),
        ({"step": "dataset-initializer"}, "node-0, node-1"),
        ({"rank": 1}, "ranks 0 to 0"),
        ({"streams": ("out",)}, "stdout, stderr, report"),
        ({"since": "yesterday"}, "cursor"),
        ({"tail": -1}, "0 or more"),
    ],
)
async def test_a_query_for_what_can_not_exist_is_refused(tmp_path: Path, query: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpecError, match=message):
        await read(tmp_path, job(num_nodes=2), **query)


async def test_streams_are_chosen(tmp_path: Path) -> None:
    write(tmp_path, 0, b"out\n")
    write(tmp_path, 0, b"err\n", "stderr")
    write(tmp_path, 0, b'{"k":"metric","t":12.5,"m":{"loss":1}}\n', "report")
    assert await texts(tmp_path, streams=("stderr",)) == ["err"]
    [report] = await read(tmp_path, streams=("report",))
    assert (report.stream, report.time) == ("report", 12.5)


async def test_ranks_are_merged_in_the_order_of_their_time_marks(tmp_path: Path) -> None:
    state = job(num_nodes=2)
    for rank in range(2):
        write(tmp_path, rank, b"a%d\nb%d\n" % (rank, rank))
    for when, rank, size in ((1.0, 1, 3), (2.0, 0, 3), (4.0, 1, 6), (3.0, 0, 6)):
        mark(tmp_path, when, rank, size)
    lines = await read(tmp_path, state, step=None)
    assert [(line.text, line.time) for line in lines] == [("a1", 1.0), ("a0", 2.0), ("b0", 3.0), ("b1", 4.0)]


async def test_an_unmarked_line_has_the_time_of_the_last_write(tmp_path: Path) -> None:
    path = write(tmp_path, 0, b"a\nb\n")
    mark(tmp_path, 1.0, 0, 2)
    os.utime(path, (50, 50))
    assert [line.time for line in await read(tmp_path)] == [1.0, 50.0]


async def test_since_a_time_begins_with_the_first_line_of_that_time(tmp_path: Path) -> None:
    write(tmp_path, 0, b"old\nhalf a line\nnew\n")
    mark(tmp_path, 10.0, 0, 8)  # within the second line
    mark(tmp_path, 20.0, 0, 16)
    mark(tmp_path, 30.0, 0, 20)
    assert await texts(tmp_path, since=5.0) == ["old", "half a line", "new"]
    assert await texts(tmp_path, since=15.0) == ["half a line", "new"]
    assert await texts(tmp_path, since=25.0) == ["new"]
    assert await texts(tmp_path, since=time.time() + 60) == []


async def test_since_a_time_spans_attempts(tmp_path: Path) -> None:
    for attempt in (1, 2):
        write(tmp_path, 0, b"a%d\nb%d\n" % (attempt, attempt), attempt=attempt)
        mark(tmp_path, 10.0 * attempt, 0, 3, attempt=attempt)
        mark(tmp_path, 10.0 * attempt + 1, 0, 6, attempt=attempt)
    assert await texts(tmp_path, since=10.5) == ["b1", "a2", "b2"]


async def test_every_cursor_resumes_without_loss_or_repeat(tmp_path: Path) -> None:
    state = job(num_nodes=3)
    sizes = dict.fromkeys(range(3), 0)
    for count in range(20):
        rank = count * 7 % 3
        data = b"line %d of %d\n" % (count, rank)
        write(tmp_path, rank, data)
        sizes[rank] += len(data)
        if count % 2:
            mark(tmp_path, float(count), rank, sizes[rank])
    lines = await read(tmp_path, state, step=None)
    assert len(lines) == 20
    for index, line in enumerate(lines):
        rest = await read(tmp_path, state, step=None, since=line.cursor)
        assert [other.text for other in rest] == [other.text for other in lines[index + 1 :]]


async def test_a_cursor_goes_on_through_later_attempts(tmp_path: Path) -> None:
    write(tmp_path, 0, b"a1\nb1\n")
    [first, _] = await read(tmp_path)
    write(tmp_path, 0, b"a2\n", attempt=2)
    assert await texts(tmp_path, since=first.cursor) == ["b1", "a2"]
    assert await texts(tmp_path, since=first.cursor, attempt=1) == ["b1"]
    assert await texts(tmp_path, since=first.cursor, attempt=2) == ["a2"]


async def test_the_latest_attempt_is_read_unless_one_is_wanted(tmp_path: Path) -> None:
    for attempt in (1, 2, 10):
        write(tmp_path, 0, b"attempt %d\n" % attempt, attempt=attempt)
    assert await texts(tmp_path) == ["attempt 10"]
    assert await texts(tmp_path, attempt=2) == ["attempt 2"]
    assert await texts(tmp_path, attempt=3) == []


@pytest.mark.parametrize(("tail", "wanted"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])])
@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_tail_gives_the_last_lines(tmp_path: Path, tail: int, wanted: list[str], end: bytes) -> None:
    write(tmp_path, 0, b"a\nb\nc" + end)
    assert await texts(tmp_path, tail=tail) == wanted


async def test_tail_counts_over_all_ranks(tmp_path: Path) -> None:
    for rank in range(2):
        write(tmp_path, rank, b"".join(b"%d-%d\n" % (rank, n) for n in range(20000)))
        mark(tmp_path, 1.0 + rank, rank, 5)
    assert await texts(tmp_path, job(num_nodes=2), step=None, tail=3) == ["1-19997", "1-19998", "1-19999"]


async def test_a_long_line_comes_in_pieces_that_cut_no_character(tmp_path: Path) -> None:
    text = "x" + "ä" * 200_000
    write(tmp_path, 0, text.encode() + b"\nshort\n")
    lines = await read(tmp_path)
    assert "".join(line.text for line in lines[:-1]) == text
    assert all(len(line.text.encode()) <= 65536 for line in lines)
    assert lines[-1].text == "short"
    rest = await read(tmp_path, since=lines[1].cursor)
    assert [line.text for line in rest] == [line.text for line in lines[2:]]


@pytest.mark.parametrize("size", [65535, 65536, 65537, 131072])
async def test_lines_about_the_size_of_a_chunk_are_whole(tmp_path: Path, size: int) -> None:
    write(tmp_path, 0, b"a" * size + b"\n" + b"b" * size + b"\nend")
    joined = "".join(await texts(tmp_path))
    assert joined == "a" * size + "b" * size + "end"
    assert "" not in await texts(tmp_path)


async def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, b"caf\xe9 \x00\n")
    assert await texts(tmp_path) == ["caf\ufffd \x00"]


async def test_a_hole_is_told_as_one_gap(tmp_path: Path) -> None:
    path = write(tmp_path, 0, b"".join(b"line %06d\n" % n for n in range(50_000)))
    before = await read(tmp_path)
    punch(path, 1 << 18)
    lines = await read(tmp_path)
    gap, *rest = lines
    assert gap.stream == "gap"
    assert gap.position == 0
    assert f"{rest[0].position} bytes of stdout" in gap.text
    assert rest[0].position >= 1 << 18
    assert [line.text for line in rest] == [line.text for line in before[-len(rest) :]]
    assert (await read(tmp_path, since=gap.cursor))[0].text == rest[0].text


async def test_a_cursor_within_a_hole_tells_the_gap_from_there(tmp_path: Path) -> None:
    path = write(tmp_path, 0, b"".join(b"line %06d\n" % n for n in range(50_000)))
    before = await read(tmp_path)
    punch(path, 1 << 18)
    gap, *rest = await read(tmp_path, since=before[99].cursor)
    assert (gap.stream, gap.position) == ("gap", 1200)
    assert rest[-1].text == "line 049999"


async def test_a_file_that_is_one_hole_is_a_gap(tmp_path: Path) -> None:
    path = write(tmp_path, 0, b"x" * (1 << 17))
    punch(path, 1 << 17)
    assert [(line.stream, line.text.split()[0]) for line in await read(tmp_path)] == [("gap", str(1 << 17))]


async def test_a_reader_that_a_hole_overtakes_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, 0, b"".join(b"line %06d\n" % n for n in range(50_000)))
    async with following(tmp_path) as (line, done):
        assert (await line()).text == "line 000000"
        punch(path, 1 << 18)
        done.set()
        streams = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                got = await line()
                assert "\0" not in got.text
                streams.append(got.stream)
    assert streams.count("gap") == 1


async def test_following_gives_what_comes_and_ends_when_the_job_does(tmp_path: Path) -> None:
    write(tmp_path, 0, b"before\n")
    async with following(tmp_path) as (line, done):
        assert (await line()).text == "before"
        write(tmp_path, 0, b"after\nhal")
        assert (await line()).text == "after"
        write(tmp_path, 0, b"f\nlast")
        assert (await line()).text == "half"
        done.set()
        assert (await line()).text == "last"
        with pytest.raises(StopAsyncIteration):
            await line()


async def test_following_waits_for_a_job_that_has_no_directory_yet(tmp_path: Path) -> None:
    directory = tmp_path / "job"
    async with following(directory) as (line, _):
        first = asyncio.create_task(line())
        for _ in range(3):
            await asyncio.sleep(0)
        directory.mkdir()
        write(directory, 0, b"hello\n")
        assert (await first).text == "hello"


async def test_following_sees_a_stream_that_appears_later(tmp_path: Path) -> None:
    write(tmp_path, 0, b"out\n")
    async with following(tmp_path) as (line, _):
        assert (await line()).text == "out"
        waiting = asyncio.create_task(line())
        await asyncio.sleep(0)
        write(tmp_path, 0, b"err\n", "stderr")
        assert (await waiting).stream == "stderr"


async def test_following_goes_on_to_the_next_attempt(tmp_path: Path) -> None:
    write(tmp_path, 0, b"first\npartial")
    async with following(tmp_path) as (line, done):
        assert (await line()).text == "first"
        waiting = asyncio.create_task(line())
        await asyncio.sleep(0)
        write(tmp_path, 0, b"second\n", attempt=2)
        assert (await waiting).text == "partial"
        got = await line()
        assert (got.text, got.attempt) == ("second", 2)
        done.set()
        with pytest.raises(StopAsyncIteration):
            await line()


async def test_following_one_attempt_ends_with_it(tmp_path: Path) -> None:
    write(tmp_path, 0, b"first\n")
    async with following(tmp_path, attempt=1) as (line, _):
        assert (await line()).text == "first"
        waiting = asyncio.create_task(line())
        await asyncio.sleep(0)
        write(tmp_path, 0, b"second\n", attempt=2)
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_following_with_tail_begins_at_the_last_lines(tmp_path: Path) -> None:
    write(tmp_path, 0, b"a\nb\nc\n")
    async with following(tmp_path, tail=1) as (line, _):
        assert (await line()).text == "c"
        write(tmp_path, 0, b"d\ne\n")
        assert [(await line()).text for _ in range(2)] == ["d", "e"]


async def test_following_a_job_that_ended_ends(tmp_path: Path) -> None:
    done = asyncio.Event()
    done.set()
    lines = read_logs(tmp_path / "none", job(), LogQuery(follow=True), done)
    assert [line async for line in lines] == []


async def test_a_line_arrives_within_milliseconds(tmp_path: Path) -> None:
    write(tmp_path, 0, b"start\n")
    delays = []
    async with following(tmp_path) as (line, _):
        await line()
        for _ in range(21):
            waiting = asyncio.create_task(line())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            written = time.perf_counter()
            write(tmp_path, 0, b"x\n")
            await waiting
            delays.append(time.perf_counter() - written)
    # 0.3 ms on an idle machine; a loaded one must not fail the test.
    assert sorted(delays)[10] < 0.02


async def test_many_followers_share_one_inotify_instance(tmp_path: Path) -> None:
    write(tmp_path, 0, b"start\n")

    def instances() -> int:
        links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return sum("inotify" in link for link in links)

    before = instances()
    async with contextlib.AsyncExitStack() as stack:
        followers = [(await stack.enter_async_context(following(tmp_path)))[0] for _ in range(50)]
        for line in followers:
            await line()
        assert instances() == before + 1
        waiting = [asyncio.create_task(line()) for line in followers]
        await asyncio.sleep(0)
        write(tmp_path, 0, b"for all\n")
        assert {line.text for line in await asyncio.gather(*waiting)} == {"for all"}
    assert instances() == before
    assert [
        task for task in asyncio.all_tasks() if task is not asyncio.current_task() and "anyio" not in repr(task)
    ] == []


async def test_a_flood_leaves_turns_to_the_loop_and_order_to_the_reader(tmp_path: Path) -> None:
    total = 400_000
    path = write(tmp_path, 0, b"")

    def flood() -> None:
        with path.open("ab", buffering=0) as file:
            for start in range(0, total, 1000):
                file.write(b"".join(b"%d\n" % n for n in range(start, start + 1000)))

    longest = 0.0

    async def watch_the_loop() -> None:
        nonlocal longest
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - begin)

    writer = threading.Thread(target=flood)
    watcher = asyncio.create_task(watch_the_loop())
    done = asyncio.Event()
    count = 0
    writer.start()
    async for line in read_logs(tmp_path, job(), LogQuery(follow=True), done):
        assert line.text == str(count)
        count += 1
        if count == total:
            done.set()
    writer.join()
    watcher.cancel()
    assert count == total
    assert longest < 0.2


def test_last_lines_gives_stdout_before_stderr(tmp_path: Path) -> None:
    write(tmp_path, 3, b"".join(b"out %d\n" % n for n in range(100)))
    write(tmp_path, 3, b"Traceback\nValueError: no", "stderr")
    assert last_lines(tmp_path / "attempt-1", 3, 4) == ("out 98", "out 99", "Traceback", "ValueError: no")
    assert last_lines(tmp_path / "attempt-1", 3, 1) == ("ValueError: no",)
    assert last_lines(tmp_path / "attempt-1", 4) == ()


def test_last_lines_bounds_what_one_line_takes(tmp_path: Path) -> None:
    write(tmp_path, 0, b"x" * (1 << 20))
    lines = last_lines(tmp_path / "attempt-1", 0)
    assert lines
    assert all(len(line) <= 2000 for line in lines)
