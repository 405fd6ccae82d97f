"""When a rank wrote what, and how much of it is kept.

Ranks write their output straight into files, so nobody sees a line pass. The supervisor only notes, from time to time,
how long a file was at which moment: a *time mark*. The marks of an attempt are in its file ``marks``, in the
order of time to a quarter of a second; a reader who follows them merges the files of many ranks as they were written.

The same look at the sizes enforces the limit of a job's output: holes are punched at the head of its largest files.
Offsets never change, so a reader's cursor stays valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kfasync import log
from kfasync.inotify import FileWatch

__all__ = ["MARK_SIZE", "STREAMS", "Marks", "data_offset", "read_marks"]

#: Names of a rank's streams; a mark holds the index.
STREAMS = ("stdout", "stderr", "report")

_MARK = struct.Struct("<dHBQ")  # Unix time, rank, index of the stream, size of its file
MARK_SIZE = _MARK.size
MARK_SIZE = MARK_SIZE
# Seconds between two marks of a file: finer marks would cost a flooding rank more than anybody gains from them.
_INTERVAL = 0.25
# Holes end on a multiple of this: larger than any usual block, because a part of a block would be zeroed, not freed.
_BLOCK = 1 << 16
# Bytes punched in one system call: the file's writer waits that long.
_STEP = 1 << 24

_log = log.get("local")


def read_marks(path: Path, offset: int, count: int = 2048) -> list[tuple[float, int, int, int]]:
    """Some marks from an offset on: tuples of time, rank, stream index and size. Each takes `MARK_SIZE` bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        data = os.pread(fd, count * MARK_SIZE, offset)
    finally:
        os.close(fd)
    return list(_MARK.iter_unpack(data[: len(data) // MARK_SIZE * MARK_SIZE]))


def data_offset(fd: int, offset: int) -> int:
    """Where the data behind a punched hole begins; the offset itself when it is in no hole."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # ENXIO: nothing but hole, or the end of the file
            raise
        return max(offset, os.fstat(fd).st_size)


@dataclass(eq=False, slots=True)
class _File:
    """One file of a rank: its size at the last look, and how much of its head is gone."""

    path: Path
    job: _Job
    rank: int = 0
    stream: int = 0
    size: int = 0
    head: int = 0
    timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(eq=False, slots=True)
class _Job:
    """The files of a job, those of its earlier attempts included, and the bytes kept of them all."""

    files: list[_File] = field(default_factory=list)
    kept: int = 0
    attempts: int = 0


class Marks:
    """Marks the output of all running attempts and keeps each job's output within the limit.

    Belongs to one event loop. `add` and `remove` may be called before `run` has started.

    Args:
        limit: Bytes of output kept for each job.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: dict[Path, _File] = {}
        self._jobs: dict[Path, _Job] = {}
        self._watch: FileWatch | None = None
        self._exceeded = asyncio.Event()
        self._warned: set[str] = set()

    def add(self, attempt_dir: Path, ranks: Iterable[int]) -> None:
        """Begin to mark a running attempt; of an adopted one, what was written meanwhile is marked first.

        Missing files are created, so that readers can watch them.
        """
        job = self._jobs.get(attempt_dir.parent)
        if job is None:
            job = self._jobs[attempt_dir.parent] = _Job()
            earlier = [] if attempt_dir.name == "attempt-1" else attempt_dir.parent.glob("attempt-*/rank-*.*")
            for path in sorted(earlier):
                if path.parent != attempt_dir and path.suffix[1:] in STREAMS:
                    self._take(_File(path, job), path.stat().st_size)
        job.attempts += 1
        with contextlib.suppress(FileNotFoundError):
            marks = attempt_dir / "marks"
            os.truncate(marks, marks.stat().st_size // MARK_SIZE * MARK_SIZE)
        for rank in ranks:
            for stream, name in enumerate(STREAMS):
                path = attempt_dir / f"rank-{rank}.{name}"
                # Not touch(): the time of an adopted file's last write must stay.
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                file = self._files[path] = _File(path, job, rank, stream)
                self._look(file)

    def remove(self, attempt_dir: Path) -> None:
        """Stop marking an attempt that has ended, after a last look."""
        marked = [path for path in self._files if path.parent == attempt_dir]
        for path in marked:
            file = self._files.pop(path)
            file.stop()
            if self._watch is not None:
                self._watch.remove(path)
            self._mark(file)
        if marked and (job := self._jobs.get(attempt_dir.parent)) is not None:
            job.attempts -= 1
            # Wakes the trimmer, which forgets jobs without a running attempt.
            self._exceeded.set()

    async def run(self) -> None:
        """Do the work; ends by cancellation."""
        async with FileWatch() as watch, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._trim_jobs())
            self._watch = watch
            try:
                for file in list(self._files.values()):
                    self._look(file)
                while True:
                    for path in await watch.wait():
                        changed = self._files.get(path)
                        if changed is not None and changed.timer is None:
                            self._look(changed)
            finally:
                self._watch = None
                for file in self._files.values():
                    file.stop()

    def _look(self, file: _File) -> None:
        """Mark the file if it grew, and look again after the interval without watching; else watch it."""
        file.timer = None
        if self._watch is None:
            return
        # The second look, with the watch in place, sees what was written just before it was.
        if not (self._mark(file) or (self._arm(self._watch, file.path) and self._mark(file))):
            return
        self._watch.remove(file.path)
        file.timer = asyncio.get_running_loop().call_later(_INTERVAL, self._look, file)

    def _arm(self, watch: FileWatch, path: Path) -> bool:
        try:
            watch.add(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._warn("log_unwatched", path, error)
            return False
        return True

    def _mark(self, file: _File) -> bool:
        """Record the file's size if it grew, with the time of the last write."""
        try:
            stat = file.path.stat()
            if stat.st_size <= file.size:
                return False
            self._take(file, stat.st_size)
        except FileNotFoundError:
            return False
        if file.job.kept > self._limit:
            self._exceeded.set()
        try:
            with open(file.path.parent / "marks", "ab", buffering=0) as marks:
                marks.write(_MARK.pack(stat.st_mtime, file.rank, file.stream, stat.st_size))
        except OSError as error:
            self._warn("log_time_unmarked", file.path, error)
        return True

    @staticmethod
    def _take(file: _File, size: int) -> None:
        """Count what was added to a file; the first time, what an earlier supervisor left of it."""
        if file.size == 0:
            fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            file.size = file.head = data_offset(fd, 0)
            os.close(fd)
            file.job.files.append(file)
        file.job.kept += size - file.size
        file.size = size

    async def _trim_jobs(self) -> None:
        while True:
            await self._exceeded.wait()
            self._exceeded.clear()
            for directory, job in list(self._jobs.items()):
                if job.kept > self._limit and "log_limit_unenforced" not in self._warned:
                    await self._trim(job)
                if job.attempts == 0:
                    self._jobs.pop(directory, None)

    async def _trim(self, job: _Job) -> None:
        # An eighth more than needed goes at once, so that a flood does not cause a hole at every look.
        level = _level([file.size - file.head for file in job.files], self._limit - self._limit // 8)
        cuts = [(file, (file.size - level) // _BLOCK * _BLOCK) for file in job.files]
        for file, cut in cuts:
            if cut <= file.head:
                continue
            try:
                await asyncio.to_thread(_punch, file.path, file.head, cut)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._warn("log_limit_unenforced", file.path, error)
                return
            job.kept -= cut - file.head
            file.head = cut

    def _warn(self, event: str, path: Path, error: OSError) -> None:
        if event not in self._warned:
            self._warned.add(event)
            _log.warning(event, path=str(path), error=str(error))


def _level(sizes: Sequence[int], total: int) -> int:
    """The size to which the largest must shrink, the same for all of them, for the sum to become the total."""
    left = total
    for count, size in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if size * count >= left:
            return left // count
        left -= size
    return max(sizes, default=0)


def _punch(path: Path, start: int, end: int) -> None:
    """Free the blocks of a part of a file; its size and the offsets of the rest stay."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for offset in range(start, end, _STEP):
            if _fallocate(fd, _PUNCH_HOLE, offset, min(_STEP, end - offset)) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


_PUNCH_HOLE = 0x2 | 0x1  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

if sys.platform == "linux":
    _fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    _fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
