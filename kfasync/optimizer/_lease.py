"""Who drives a study that its caller asks and tells: one process at a time, for as long as it lives.

A POSIX record lock says so. The kernel gives it back when its holder ends, however that happens, a child made by fork
does not inherit it, and its holder's pid can be asked for. There is no heartbeat that could be late.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import threading
from pathlib import Path

__all__ = ["Lease", "ended"]

# struct flock of Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")

# Every descriptor of a locked file that this process closes drops the lock, so all of them are opened and closed here.
_lock = threading.Lock()
_held: dict[Path, int] = {}


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)


class Lease:
    """The right to drive one study.

    Args:
        path: Its file, made when it is first taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> bool:
        """Take it if nobody has it, this process included."""
        with _lock:
            if self._path in _held:
                return False
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Again, when the file was one that its holder was just giving back.
            while (fd := self._locked()) is not None:
                if self._is_there(fd):
                    _held[self._path] = fd
                    return True
                os.close(fd)
            return False

    def _locked(self) -> int | None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, BlockingIOError | PermissionError):
                return None
            raise
        return fd

    def _is_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give it back, if this process has it; its file goes."""
        with _lock:
            fd = _held.pop(self._path, None)
            if fd is not None:
                self._path.unlink(missing_ok=True)
                os.close(fd)

    def holder(self) -> int | None:
        """The pid of the process that has it, None for nobody."""
        with _lock:
            if self._path in _held:
                return os.getpid()
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
            finally:
                os.close(fd)
            return None if kind == fcntl.F_UNLCK else pid


async def ended(pid: int) -> None:
    """Wait for the end of a process, which need not be a child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
