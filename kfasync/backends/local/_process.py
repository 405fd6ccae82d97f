"""Who a process is, and how a whole tree of them ends.

A pid alone names nobody for long: (pid, start time, boot id) does. Trees end by cgroup v2 where one can be made;
elsewhere by session and environment, with the supervisor as the subreaper that orphans come to.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Identity",
    "become_subreaper",
    "boot_id",
    "cgroup_base",
    "cgroup_mount",
    "cgroup_name",
    "kill_session",
    "leave_rank",
    "start_time",
]

_PR_SET_CHILD_SUBREAPER = 36


@cache
def boot_id() -> str:
    """Identity of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        # The command may hold spaces and parentheses; the fields begin behind the last one.
        return file.read().rpartition(")")[2].split()


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process; None when there is none, or only its zombie."""
    try:
        fields = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Identity(NamedTuple):
    """One process for all time."""

    pid: int
    start: int
    boot: str

    @property
    def alive(self) -> bool:
        return self.boot == boot_id() and start_time(self.pid) == self.start

    def open(self) -> int | None:
        """A pidfd of this very process, or None when it has ended. The caller closes it."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive:
            return fd
        os.close(fd)
        return None


def become_subreaper() -> None:
    """Have orphaned descendants come to this process instead of init."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@cache
def cgroup_mount() -> Path | None:
    """Where cgroup v2 is mounted."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return None
    return next((Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"), None)


def cgroup_name(home: Path) -> str:
    """The name of a home's cgroup, which no other home on this machine has."""
    stat = os.stat(home)
    return f"kfasync-{stat.st_dev:x}-{stat.st_ino}"


def _own_cgroup() -> str | None:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        return next((line[3:].strip() for line in file if line.startswith("0::")), None)


def leave_rank() -> None:
    """Go where a rank's end does not reach, when a rank was the client that started this process."""
    mount, own = cgroup_mount(), _own_cgroup()
    if mount is not None and own is not None and (at := own.find("/kfasync-")) >= 0:
        with contextlib.suppress(OSError):
            (mount / own[:at].lstrip("/") / "cgroup.procs").write_text("0")


def cgroup_base(name: str) -> Path | None:
    """A cgroup v2 directory below our own in which this process may make groups, or None.

    Args:
        name: A name for it, unique for a KFASYNC_HOME, beginning with ``kfasync-``.
    """
    mount = cgroup_mount()
    if mount is None:
        return None
    own = _own_cgroup()
    if own is None:
        return None
    base = mount / own.lstrip("/") / name
    try:
        base.mkdir(exist_ok=True)
    except OSError:
        return None
    # cgroup.kill came with Linux 5.14; without it a group can't be ended without a race.
    return base if os.access(base / "cgroup.kill", os.W_OK) else None


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield int(entry), _stat(int(entry))


def _marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def kill_session(session: int, start: int, mark: str) -> list[int]:
    """Kill what is left of a rank where no cgroup holds it together.

    Args:
        session: The rank's pid, which is its session's id.
        start: The rank's start time. Where another process has the pid now, nothing is left of the session.
        mark: ``NAME=value`` that only processes of this rank have in their environment: finds those that left the
            session.

    Returns:
        The pids that were found. The caller waits for them and looks again: a process may fork while it is looked for.
    """
    own, found = os.getpid(), []
    wanted = mark.encode()
    if start_time(session) not in (None, start):
        session = -1
    for pid, fields in _processes():
        if pid != own and fields[0] not in "ZX" and (int(fields[3]) == session or _marked(pid, wanted)):
            # PermissionError: it became another user's, by a set-user-ID program; nobody may wait for it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                found.append(pid)
    return found
