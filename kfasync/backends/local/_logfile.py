"""One log file of a rank, read in bounded pieces while the rank goes on writing.

A line ends with a newline, or with a carriage return, as progress bars end each state of theirs. The newline directly
behind a carriage return belongs to the same end. A carriage return at the start of a line moves nothing, so it is
passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from kfasync.backends.local._marks import STREAMS, data_offset

__all__ = ["PIECE", "LogFile", "last_lines"]

#: A longer line comes in pieces of this many bytes.
PIECE = 1 << 16
_LINE_LIMIT = 2000
_NEWLINE = 10
_IDLE_RETURNS = re.compile(rb"(?<=[\r\n])\r+")


class LogFile:
    """Reads forward and remembers where it is; the file is open only while a chunk is read.

    Attributes:
        pos: Offset behind the last line that was given.
        size: Size at the last `measure`.
        mtime: Time of the last write before that.
    """

    __slots__ = (
        "_base",
        "_chunk",
        "_data",
        "_lost_from",
        "_midline",
        "key",
        "mtime",
        "path",
        "pos",
        "rank",
        "size",
        "stream",
    )

    def __init__(self, path: Path, rank: int, stream: int, chunk: int) -> None:
        self.path = path
        self.rank = rank
        self.stream = stream
        self.key = f"{'oer'[stream]}{rank}"
        self.pos = self.size = 0
        self.mtime = 0.0
        self._chunk = chunk
        self._data = b""  # read ahead
        self._base = 0  # offset of its first byte
        self._lost_from: int | None = None  # start of what a hole took, until it is told
        self._midline = False  # the data behind the hole begin within a line

    def measure(self) -> bool:
        """Look at the size; whether the file grew since the last look."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return False
        if stat.st_size <= self.size:
            return False
        self.size, self.mtime = stat.st_size, stat.st_mtime
        return True

    def seek(self, offset: int, *, line_start: bool = False) -> None:
        """Go on at an offset, or at the start of the line that is there."""
        if line_start:
            offset = max(self.pos, self._line_start(offset, 0))
        self.pos = self._base = offset
        self.size = max(self.size, offset)
        self._data = b""

    def rewind(self, lines: int) -> None:
        """Go on at the last so many lines, but never further back than now."""
        try:
            end = self.path.stat().st_size
        except FileNotFoundError:
            return
        self.seek(max(self.pos, self._line_start(end, lines)))

    def _line_start(self, end: int, lines: int) -> int:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _line_start(fd, end, lines)
        finally:
            os.close(fd)

    def take(self, limit: int, *, partial: bool = False) -> Iterator[tuple[int, str, bool]]:
        """The next lines that end at or before an offset.

        Args:
            limit: The offset.
            partial: Whether a last line without its end is given, too.

        Yields:
            Offset of the line's first byte, its text, and False; where the limit of the log took something away: the
            offset, how many bytes, and True.
        """
        while self.pos < limit:
            start, at, stop = self.pos, self.pos - self._base, limit - self._base
            end = _line_end(self._data, at, stop)
            held = min(len(self._data), stop) - at
            if self._lost_from is not None and not self._midline:
                yield self._gap()
            elif 0 <= end <= at + PIECE and self._data[at : at + 2] != b"\r":
                behind = _behind(self._data, end)
                self.pos += behind - at
                if end > at or self._data[behind - 1] == _NEWLINE:
                    yield start, _text(self._data[at:end]), False
            elif held > PIECE:
                cut = _cut(self._data, at + PIECE)
                self.pos += cut - at
                yield start, _text(self._data[at:cut]), False
            elif start + held < limit and self._fill():
                continue
            elif partial and held > 0:
                self.pos += held
                if end < 0:
                    yield start, _text(self._data[at : at + held]), False
            else:
                break
        if self._lost_from is not None:
            yield self._gap()
        if self.pos >= self._base + len(self._data):
            self._data, self._base = b"", self.pos

    def _gap(self) -> tuple[int, str, bool]:
        start = self.pos if self._lost_from is None else self._lost_from
        self._lost_from = None
        return start, str(self.pos - start), True

    def _fill(self) -> bool:
        """Read a chunk more, or step over a hole; whether there was any."""
        offset = self._base + len(self._data)
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # From a byte before, because that may be a carriage return to which a first newline belongs.
            back = min(offset, 1)
            read = os.pread(fd, self._chunk + back, offset - back)
            # Asked after the read, because holes only grow from the head: what is data now was data then.
            data = data_offset(fd, offset)
        finally:
            os.close(fd)
        chunk = read[back:]
        if data > offset:
            self._lost_from = self.pos if self._lost_from is None else self._lost_from
            self._midline, self._data = True, b""
            self._base = self.pos = data
        elif self._midline:
            # The rest of a line whose beginning is gone would read like a line, so it goes, too.
            end = _line_end(chunk, 0, len(chunk))
            self._midline, self._data = False, chunk[_behind(chunk, end) if end >= 0 else 0 :]
            self._base = self.pos = offset + len(chunk) - len(self._data)
        else:
            self._data = self._data[self.pos - self._base :] + chunk
            self._base = self.pos
            if self.pos == offset and read[: back + 1] == b"\r\n":
                # The line was given when only its carriage return was there.
                self.pos += 1
        return bool(chunk)


def _cut(data: bytes, end: int) -> int:
    """The end, or up to three bytes less, so that no UTF-8 character is cut."""
    for cut in range(end, end - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return end


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _line_end(data: bytes, start: int, stop: int) -> int:
    """Where the first line's end begins, -1 for nowhere."""
    newline = data.find(b"\n", start, stop)
    returned = data.find(b"\r", start, stop if newline < 0 else newline)
    return newline if returned < 0 else returned


def _behind(data: bytes, end: int) -> int:
    return end + (2 if data[end : end + 2] == b"\r\n" else 1)


def _line_start(fd: int, end: int, lines: int) -> int:
    """Where the last complete lines before an offset begin, and what follows them."""
    # Lines longer than a piece are several, which bounds how far back there is anything to look for.
    floor = max(0, end - (lines + 1) * PIECE)
    ends = lines + 1
    while end > floor:
        start = max(floor, end - PIECE)
        chunk = _ends(fd, start, end)
        if (found := chunk.count(b"\n")) >= ends:
            at = len(chunk)
            for _ in range(ends):
                at = chunk.rfind(b"\n", 0, at)
            return start + at + 1
        ends -= found
        end = start
    return floor


def _ends(fd: int, start: int, end: int) -> bytes:
    """A part of the file in which every line's end has become one newline, with every byte where it was."""
    # With a byte more on either side: what a carriage return does depends on its neighbours.
    back = min(start, 1)
    data = os.pread(fd, end - start + back + 1, start - back)
    if not back:
        data = b"\n" + data
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\0\n")
        data = _IDLE_RETURNS.sub(lambda run: bytes(len(run[0])), data).replace(b"\r", b"\n")
    return data[1 : 1 + end - start]


def last_lines(attempt_dir: Path, rank: int, n: int = 10) -> tuple[str, ...]:
    """The last lines that a rank printed, stdout before stderr; reads only the ends of the files.

    Args:
        attempt_dir: Directory of the attempt.
        rank: Global rank.
        n: How many lines at most.
    """
    lines: list[str] = []
    for name in ("stdout", "stderr"):
        file = LogFile(attempt_dir / f"rank-{rank}.{name}", rank, STREAMS.index(name), PIECE)
        file.rewind(n)
        if file.measure():
            lines += [text[:_LINE_LIMIT] for _, text, gap in file.take(file.size, partial=True) if not gap][-n:]
    return tuple(lines[-n:]) if n > 0 else ()
