"""What ends a line: newlines, and the carriage returns of progress bars."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from kfasync.backends.local._logfile import LogFile
from tests.backends.local.test_logs import following, read, texts, write

pytestmark = pytest.mark.anyio


async def test_each_state_of_a_progress_bar_is_a_line_while_it_runs(tmp_path: Path) -> None:
    async with following(tmp_path) as (line, done):
        for percent in range(20):
            write(tmp_path, 0, b"\r%d%%" % percent)
            if percent:
                assert (await line()).text == f"{percent - 1}%"
        write(tmp_path, 0, b"\ndone 0%\r")
        assert [(await line()).text for _ in range(2)] == ["19%", "done 0%"]
        write(tmp_path, 0, b"\ndone\n")
        assert (await line()).text == "done"
        done.set()
        with pytest.raises(StopAsyncIteration):
            await line()


def split(data: bytes) -> list[tuple[int, str]]:
    """Position and text of the lines of a whole file, by the rule."""
    found = re.finditer(rb"\r*?(?:(?P<text>[^\r\n]+)(?:\r\n|\r|\n|$)|(?P<empty>\r?\n))|\r+$", data)
    lines = [(max(match.start("text"), match.start("empty")), match["text"] or b"") for match in found]
    return [(position, text.decode()) for position, text in lines if position >= 0]


async def test_returns_and_newlines_end_the_same_lines_however_they_arrive(tmp_path: Path) -> None:
    """Every text of these characters: whole, byte by byte, from every cursor, and by its tail."""
    for number, given in enumerate(itertools.product(b"a\r\n", repeat=5)):
        data, directory = bytes(given), tmp_path / str(number)
        directory.mkdir()
        file = LogFile(write(directory, 0, b""), 0, 0, 4096)
        slowly: list[tuple[int, str]] = []
        for end in range(1, len(data) + 1):
            write(directory, 0, data[end - 1 : end])
            slowly += [(position, text) for position, text, _ in file.take(end, partial=end == len(data))]
        lines = await read(directory)
        wanted = split(data)
        assert [(line.position, line.text) for line in lines] == slowly == wanted, data
        for index, line in enumerate(lines):
            rest = await read(directory, since=line.cursor)
            assert [(other.position, other.text) for other in rest] == wanted[index + 1 :], data
            assert await texts(directory, tail=index) == [text for _, text in wanted[len(wanted) - index :]], data


async def test_a_cursor_between_a_return_and_its_newline_repeats_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, b"50%\r")
    [half] = await read(tmp_path)
    write(tmp_path, 0, b"\n100%\n")
    assert await texts(tmp_path) == ["50%", "100%"]
    assert await texts(tmp_path, since=half.cursor) == ["100%"]


async def test_returns_at_the_borders_of_chunks_and_pieces_end_lines(tmp_path: Path) -> None:
    for size in range(65534, 65539):
        directory = tmp_path / str(size)
        directory.mkdir()
        write(directory, 0, b"a" * size + b"\r\n" + b"b" * size + b"\rend\r\n\r\n")
        lines = await texts(directory)
        assert "".join(lines) == "a" * size + "b" * size + "end"
        assert lines[-2:] == ["end", ""]
        assert "" not in lines[:-1]


async def test_tail_counts_states_of_a_progress_bar(tmp_path: Path) -> None:
    write(tmp_path, 0, b"start\n" + b"".join(b"\r%6d" % n for n in range(50_000)))
    assert await texts(tmp_path, tail=3) == [f"{n:6}" for n in range(49_997, 50_000)]
    path = tmp_path / "attempt-1" / "rank-0.stdout"
    file = LogFile(path, 0, 0, 4096)
    file.rewind(3)
    assert path.stat().st_size - file.pos < 4 * 7 + 1
