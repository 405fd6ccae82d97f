"""What the ranks of a local job printed: read from their files, merged by the time marks, followed by inotify.

A reader is never more than a cursor and one chunk a file: whoever reads slowly leaves the rest on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kfasync.backends.base import LogLine, LogQuery
from kfasync.backends.local._follow import Follower
from kfasync.backends.local._logfile import PIECE, LogFile, last_lines
from kfasync.backends.local._marks import MARK_SIZE, STREAMS, read_marks
from kfasync.errors import InvalidSpecError

if TYPE_CHECKING:
    from kfasync.state import JobState

__all__ = ["last_lines", "read_logs"]

# Bytes that the chunks of all files may take together, so that a job of a thousand ranks costs no more than one of ten.
_BUFFERS = 1 << 22
# Seconds after which the loop gets a turn, even when the reader could go on for minutes.
_TURN = 0.001
_ATTEMPT = re.compile(r"attempt-(\d+)")
# The worker's own time of a report is the exact one.
_REPORT_TIME = re.compile(r'"t": ?(\d+\.?\d*)')


async def read_logs(
    job_dir: Path, job: JobState, query: LogQuery, done: asyncio.Event
) -> AsyncGenerator[LogLine, None]:
    """Read a job's output; see `kfasync.backends.base.LogQuery`.

    Args:
        job_dir: The job's directory, with one directory for each attempt.
        job: The job; its spec says how many nodes and ranks it has.
        query: Which lines.
        done: Set when the job has ended and will print no more.

    Yields:
        The lines: of one file in their order, across files by the time they were written, as exact as the marks are.

    Raises:
        InvalidSpecError: The query names a step, rank, stream or cursor that can't exist.
        BackendError: The kernel refuses to watch more files.
    """
    choice = _Choice.of(job, query)
    cursor = _Cursor.parse(query.since) if isinstance(query.since, str) else None
    recent: deque[LogLine] | None = None if query.tail is None else deque(maxlen=query.tail)
    turn = time.monotonic() + _TURN
    async with contextlib.AsyncExitStack() as stack:
        follower = await stack.enter_async_context(Follower(done)) if query.follow else None
        reader = _Reader(job_dir, choice, query, cursor, done, follower)
        lines = await stack.enter_async_context(contextlib.aclosing(reader.lines()))
        async for line in lines:
            if line is None:
                for held in recent or ():
                    yield held
                recent = None
            elif recent is not None:
                recent.append(line)
            else:
                yield line
            if time.monotonic() >= turn:
                await asyncio.sleep(0)
                turn = time.monotonic() + _TURN
        for held in recent or ():
            yield held


@dataclass(frozen=True)
class _Choice:
    """Which files to read."""

    ranks: range
    streams: tuple[int, ...]
    nproc: int

    @classmethod
    def of(cls, job: JobState, query: LogQuery) -> Self:
        nodes, nproc = job.spec.get("num_nodes") or 1, job.spec.get("num_proc_per_node") or 1
        ranks = range(nodes * nproc)
        if query.step is not None:
            steps = [f"node-{node}" for node in range(nodes)]
            if query.step not in steps:
                raise InvalidSpecError(f"job {job.name!r} has no step {query.step!r}; its steps: {', '.join(steps)}")
            node = steps.index(query.step)
            ranks = range(node * nproc, (node + 1) * nproc)
        if query.rank is not None:
            if query.rank not in ranks:
                where = f"step {query.step!r} of job" if query.step else "job"
                raise InvalidSpecError(
                    f"{where} {job.name!r} has the ranks {ranks[0]} to {ranks[-1]}, not {query.rank!r}"
                )
            ranks = range(query.rank, query.rank + 1)
        if unknown := [name for name in query.streams if name not in STREAMS]:
            raise InvalidSpecError(f"no stream is named {unknown[0]!r}; there are {', '.join(STREAMS)}")
        if query.tail is not None and query.tail < 0:
            raise InvalidSpecError(f"tail={query.tail!r}: a number of lines is 0 or more")
        return cls(ranks, tuple(i for i, name in enumerate(STREAMS) if name in query.streams), nproc)


@dataclass(frozen=True)
class _Cursor:
    """Behind a line: attempt, offset in its marks, and offset in each file of which something was given."""

    attempt: int
    marks: int
    offsets: dict[str, int]

    @classmethod
    def parse(cls, text: str) -> Self:
        attempt, _, rest = text.partition(".")
        marks, _, places = rest.partition(".")
        pairs = [place.partition(":") for place in places.split(".") if place]
        try:
            return cls(int(attempt), int(marks), {key: int(offset) for key, _, offset in pairs})
        except ValueError:
            raise InvalidSpecError(f"since={text!r} is no cursor of a log line (a time is given as a number)") from None


class _Attempt:
    """The chosen files of one attempt, merged."""

    def __init__(self, directory: Path, number: int, choice: _Choice, since: float | None) -> None:
        self.directory = directory
        self.number = number
        self._nproc = choice.nproc
        self._since = since
        self._marks = directory / "marks"
        self._marks_at = 0
        chunk = max(4096, min(PIECE, _BUFFERS // (len(choice.ranks) * max(1, len(choice.streams)))))
        self.files = {
            (rank, stream): LogFile(directory / f"rank-{rank}.{STREAMS[stream]}", rank, stream, chunk)
            for rank in choice.ranks
            for stream in choice.streams
        }
        self._by_path = {file.path: file for file in self.files.values()}
        self.unread = list(self.files.values())
        self._places: dict[str, str] = {}

    def resume(self, cursor: _Cursor) -> None:
        """Go on behind a line."""
        self._marks_at = cursor.marks
        for file in self.files.values():
            self._move(file, cursor.offsets.get(file.key, 0))
        # Files that this query leaves out keep their place for the one that takes the cursor up again.
        self._places |= {key: f"{key}:{offset}" for key, offset in cursor.offsets.items()}

    def rewind(self, lines: int) -> None:
        """Leave out what can't be among the last lines."""
        for file in self.files.values():
            file.rewind(lines)
            self._place(file)

    def leave(self, follower: Follower) -> None:
        """Watch the files no longer."""
        for path in (self.directory, *self._by_path):
            follower.remove(path)

    def changed(self, paths: set[Path]) -> None:
        """Take note of what a follower saw."""
        self.unread += [self._by_path[path] for path in paths if path in self._by_path]

    def read(self, follower: Follower | None) -> Iterator[LogLine | None]:
        """Everything that is complete now; nothing when nothing is new. None is a moment to give the loop a turn.

        A file is watched only while there is nothing of it to read, so that a flood costs its writer nothing.
        """
        marks_end = self._marks.stat().st_size if self._marks.exists() else 0
        self.unread = [file for file in dict.fromkeys(self.unread) if _grew(file, follower)]
        while self.unread and (count := (marks_end - self._marks_at) // MARK_SIZE) > 0:
            marks = read_marks(self._marks, self._marks_at, min(count, 2048))
            # Marks are written up to 0.25 s after the time that they tell.
            for when, rank, stream, size in sorted(marks, key=itemgetter(0)):
                if (file := self.files.get((rank, stream))) is not None:
                    yield from self._take(file, size, when)
            self._marks_at += max(1, len(marks)) * MARK_SIZE
            yield None
        for file in self.unread:
            yield from self._take(file, file.size, file.mtime)

    def rest(self) -> Iterator[LogLine]:
        """Last lines without an end."""
        for file in self.files.values():
            yield from self._take(file, file.size, file.mtime, partial=True)

    def _take(self, file: LogFile, limit: int, when: float, *, partial: bool = False) -> Iterator[LogLine]:
        if file.pos >= limit:
            return
        if self._since is not None and when < self._since:
            file.seek(limit, line_start=True)
            self._place(file)
            return
        for position, text, is_gap in file.take(limit, partial=partial):
            self._place(file)
            if is_gap:
                text = f"{text} bytes of {STREAMS[file.stream]} are gone: the job's output went past its limit"
            elif file.stream == 2 and (told := _REPORT_TIME.search(text, 0, 64)):
                when = float(told[1])
            yield LogLine(
                text=text,
                stream="gap" if is_gap else STREAMS[file.stream],
                node=file.rank // self._nproc,
                rank=file.rank,
                attempt=self.number,
                time=when,
                position=position,
                cursor=".".join((f"{self.number}.{self._marks_at}", *self._places.values())),
            )

    def _move(self, file: LogFile, offset: int) -> None:
        file.seek(offset)
        self._place(file)

    def _place(self, file: LogFile) -> None:
        if file.pos:
            self._places[file.key] = f"{file.key}:{file.pos}"


def _grew(file: LogFile, follower: Follower | None) -> bool:
    if file.measure():
        grew = True
    elif follower is None or not follower.add(file.path):
        return False
    else:
        # What was written before the watch was in place would wake nobody.
        grew = file.measure()
    if grew and follower is not None:
        follower.remove(file.path)
    return grew


class _Reader:
    """Goes through the attempts, and waits where the query follows."""

    def __init__(
        self,
        job_dir: Path,
        choice: _Choice,
        query: LogQuery,
        cursor: _Cursor | None,
        done: asyncio.Event,
        follower: Follower | None,
    ) -> None:
        self._job_dir = job_dir
        self._choice = choice
        self._query = query
        self._cursor = cursor
        self._since = query.since if isinstance(query.since, int | float) else None
        self._done = done
        self._follower = follower
        self._at_start = True

    async def lines(self) -> AsyncGenerator[LogLine | None, None]:
        """The lines; None each time when everything that there is was given."""
        number: int | None = None
        while number is None:
            # Asked before looking, so that what comes with the end is still seen.
            ended = self._ended()
            self._watch_job()
            number = self._first()
            if number is None:
                if ended or self._follower is None:
                    return
                self._at_start = False
                yield None
                await self._follower.wait()
        while number is not None:
            async with contextlib.aclosing(self._follow(self._open(number))) as lines:
                async for line in lines:
                    yield line
            number = None if self._query.attempt is not None else self._after(number)

    async def _follow(self, attempt: _Attempt) -> AsyncGenerator[LogLine | None, None]:
        follower = self._follower
        while True:
            final = self._ended() or self._after(attempt.number) is not None
            if follower is not None:
                follower.add(attempt.directory, content=False)
            found = False
            for line in attempt.read(follower):
                found = True
                if line is None:
                    await asyncio.sleep(0)
                else:
                    yield line
            # Once more also when a part of a line came: a file is watched again only when there is nothing to read.
            if follower is not None and (found or attempt.unread):
                continue
            if final or follower is None:
                break
            self._at_start = False
            yield None
            attempt.changed(await follower.wait())
        for line in attempt.rest():
            yield line
        if follower is not None:
            attempt.leave(follower)

    def _ended(self) -> bool:
        return self._follower is None or self._done.is_set()

    def _watch_job(self) -> None:
        """Watch for attempts; before the job's directory is there, for that."""
        if self._follower is not None and not self._follower.add(self._job_dir, content=False):
            self._follower.add(self._job_dir.parent, content=False)

    def _attempts(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(match[1]) for name in os.listdir(self._job_dir) if (match := _ATTEMPT.fullmatch(name)))
        return []

    def _after(self, number: int) -> int | None:
        return next((each for each in self._attempts() if each > number), None)

    def _first(self) -> int | None:
        attempts = self._attempts()
        wanted = self._query.attempt
        if self._cursor is not None:
            # What comes before the cursor's attempt was given; without a wanted one, reading goes on from there.
            attempts = [each for each in attempts if each >= self._cursor.attempt]
            wanted = wanted or (attempts[0] if attempts else None)
        elif self._since is not None:
            wanted = wanted or (attempts[0] if attempts else None)
        if wanted is None:
            return attempts[-1] if attempts else None
        return wanted if wanted in attempts else None

    def _open(self, number: int) -> _Attempt:
        attempt = _Attempt(self._job_dir / f"attempt-{number}", number, self._choice, self._since)
        if self._cursor is not None and self._cursor.attempt == number:
            attempt.resume(self._cursor)
        if self._query.tail is not None and self._at_start:
            attempt.rewind(self._query.tail)
        return attempt
