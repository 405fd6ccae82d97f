"""Changes of files as something to await: Linux inotify on the event loop, no thread and no polling.

Elsewhere (macOS) the same interface stands on `watchfiles`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["FileWatch"]

_MODIFY, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x2, 0x80, 0x100, 0x200, 0x400, 0x800
_Q_OVERFLOW, _IGNORED = 0x4000, 0x8000
_MASK = _MODIFY | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_HEADER = struct.Struct("iIII")


class FileWatch:
    """Watches files and directories; belongs to the loop it was opened on.

    A change between two calls of `wait` is never lost: it is given by the next call. When the kernel's queue overflows,
    every watched path counts as changed.

    Example:
        >>> async with FileWatch() as watch:  # doctest: +SKIP
        ...     watch.add(Path("train.log"))
        ...     changed = await watch.wait()
    """

    def __init__(self) -> None:
        self._paths: dict[int, Path] = {}
        self._watches: dict[Path, int] = {}
        self._changed: set[Path] = set()
        self._wake = asyncio.Event()
        self._fd = -1

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1: raise fs.inotify.max_user_instances")
        self._loop.add_reader(self._fd, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching; safe to call twice."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def add(self, path: Path, *, content: bool = True) -> None:
        """Watch a file, or the entries of a directory. Adding a path again is harmless.

        Args:
            path: What to watch.
            content: Whether writes count. False, for a directory, tells only of entries that come and go: the files in
                it may be written a million times a second.

        Raises:
            OSError: It does not exist, or the user's limit of watches is reached.
        """
        wd = _libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK if content else _MASK & ~_MODIFY)
        if wd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
        self._paths[wd] = path
        self._watches[path] = wd

    def remove(self, path: Path) -> None:
        """Stop watching one path; unknown ones are ignored, as is one whose file is gone."""
        wd = self._watches.pop(path, None)
        if wd is not None:
            self._paths.pop(wd, None)
            _libc.inotify_rm_watch(self._fd, wd)

    async def wait(self) -> set[Path]:
        """Wait for a change.

        Returns:
            The watched paths that changed (for a directory: the entries); at least one, unless `wake` was called or
            another waiter took them.
        """
        await self._wake.wait()
        self._wake.clear()
        changed, self._changed = self._changed, set()
        return changed

    def wake(self, *changed: Path) -> None:
        """Let whoever waits go on at once, with these paths besides what changed; maybe with an empty set."""
        self._changed.update(changed)
        self._wake.set()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, 65536)
            offset = 0
            while offset < len(data):
                wd, mask, _, size = _HEADER.unpack_from(data, offset)
                name = data[offset + _HEADER.size : offset + _HEADER.size + size].rstrip(b"\0")
                offset += _HEADER.size + size
                self._note(wd, mask, name)
        if self._changed:
            self._wake.set()

    def _note(self, wd: int, mask: int, name: bytes) -> None:
        if mask & _Q_OVERFLOW:
            self._changed.update(self._watches)
        elif mask & _IGNORED:
            path = self._paths.pop(wd, None)
            if path is not None and self._watches.get(path) == wd:
                del self._watches[path]
        elif (path := self._paths.get(wd)) is not None:
            self._changed.add(path / os.fsdecode(name) if name else path)


if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)
