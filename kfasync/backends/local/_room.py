"""Room on the disk for the journal, when jobs have taken all of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

from kfasync.backends.local._layout import Home, JobDir, remove_tree
from kfasync.errors import JournalError
from kfasync.state import Journal

__all__ = ["Ballast", "empty"]

# Bytes that the journal can have once nothing else is left. One commit takes some 0.1 MiB, so that it holds the ends of
# the jobs that fill the disk; and bytes free below which a delete makes room before it is recorded.
_SIZE = 1 << 20


class Ballast:
    """A file of the home that takes room while there is enough, to be given to the journal when there is none.

    Without it a job that fills the disk and ends stays Running for ever: its end could not be recorded.

    Args:
        home: The home.
    """

    def __init__(self, home: Home) -> None:
        self._path = home.ballast
        self._kept = False

    async def open_journal(self, path: Path) -> Journal:
        """Open the journal, with this room if there is no other, and keep the room from then on."""
        try:
            journal = await Journal.open(path)
        except JournalError:
            if not self.give():
                raise
            journal = await Journal.open(path)
        self.keep()
        return journal

    def keep(self) -> None:
        """Take the room, unless it is taken or little more would be left."""
        if self._kept:
            return
        with contextlib.suppress(OSError):
            if not self._there() and shutil.disk_usage(self._path.parent).free >= 2 * _SIZE:
                self._make()
            self._kept = self._there()

    def _there(self) -> bool:
        return self._path.exists() and self._path.stat().st_size == _SIZE

    def _make(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Real blocks: a file that is only made long takes no room.
            os.posix_fallocate(fd, 0, _SIZE)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(fd)

    def give(self) -> bool:
        """Give the room to whoever writes next; whether there was any."""
        self._kept = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


async def empty(home: Home, job: JobDir) -> bool:
    """On a full disk, drop the files of a job that is to be deleted; whether it was full.

    Without room the journal takes nothing, not even the delete, and these files may be what filled the disk.
    """
    if shutil.disk_usage(home.root).free >= _SIZE:
        return False
    for path in (*job.root.glob("node-*"), job.checkpoint):
        await asyncio.to_thread(remove_tree, path)
    # Its ranks may hold these open, so that removing them would free nothing.
    for path in job.root.glob("attempt-*/rank-*.std*"):
        with contextlib.suppress(OSError):
            os.truncate(path, 0)
    return True
