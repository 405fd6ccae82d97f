"""A copy of a checkpoint directory, whole or not there, for places whose jobs' directories are on this machine."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["copy_checkpoint"]

# Bytes between two looks at whether the copy is still wanted: a tenth of a second of a slow disk.
_PIECE = 16 << 20
# What a filesystem answers that can't copy by itself.
_CANNOT = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def copy_checkpoint(source: Path, target: Path, unwanted: Callable[[], bool] = lambda: False) -> bool:
    """Make a directory that has what another one has.

    It is written beside its place and renamed, so that whatever cuts the copy leaves no target; the next try removes
    what the last one left. Files are copied and never linked, for the owner of the copy may write into them; Btrfs and
    XFS share the data of both until then. Only one copy to a target may be under way.

    Args:
        source: What to copy: files, directories and links. An absolute link to something within it will point to the
            same thing within the target.
        target: Where to; nothing happens if it is there.
        unwanted: Asked now and then, from the calling thread: whether to give up.

    Returns:
        Whether the target is there; False if the copy was given up.

    Raises:
        FileNotFoundError: There is no source.
        OSError: Something can't be read or written, or is neither file nor directory nor link; it says what.
    """
    if target.exists():
        return True
    young = target.with_name(f"{target.name}.young")
    shutil.rmtree(young, ignore_errors=True)
    try:
        _Copy(source, target, unwanted).directory(source, young)
        os.rename(young, target)
    except _UnwantedError:
        return False
    finally:
        shutil.rmtree(young, ignore_errors=True)
    return True


class _UnwantedError(Exception):
    pass


class _Copy:
    def __init__(self, source: Path, target: Path, unwanted: Callable[[], bool]) -> None:
        self._source = source
        self._target = target
        self._unwanted = unwanted

    def directory(self, old: Path, new: Path) -> None:
        new.mkdir(mode=0o700)
        for path in old.iterdir():
            self._entry(path, new / path.name)
        shutil.copystat(old, new)

    def _entry(self, old: Path, new: Path) -> None:
        if old.is_symlink():
            self._link(old.readlink(), new)
        elif old.is_dir():
            self.directory(old, new)
        elif old.is_file():
            self._file(old, new)
        else:
            raise OSError(f"{old} is neither a file nor a directory nor a link")

    def _link(self, pointed: Path, new: Path) -> None:
        if pointed.is_relative_to(self._source):
            pointed = self._target / pointed.relative_to(self._source)
        new.symlink_to(pointed)

    def _file(self, old: Path, new: Path) -> None:
        with open(old, "rb") as read, open(new, "xb") as write:
            while _move(read.fileno(), write.fileno()):
                if self._unwanted():
                    raise _UnwantedError
        shutil.copystat(old, new)


def _move(read: int, write: int) -> int:
    """Copy the next piece of a file, in the kernel. Returns how many bytes it had."""
    try:
        return os.copy_file_range(read, write, _PIECE)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return os.sendfile(write, read, None, _PIECE)
