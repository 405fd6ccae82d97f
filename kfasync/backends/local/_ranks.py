"""A running rank as the supervisor holds it: its own child, or one adopted from a supervisor that died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from kfasync.backends.local import _process
from kfasync.backends.local._process import Identity
from kfasync.backends.local._zygotes import Child, remove_cgroup
from kfasync.inotify import FileWatch

__all__ = ["RankProcess", "oom_kills", "read_exit_record"]


class RankProcess:
    """One rank.

    Attributes:
        identity: Which process it is.
        cgroup: The group that holds it and everything it started, where there is one.
        exit: Its exit code (negative: a signal); None for an adopted one, whose parent we are not.
        killed: Whether we sent SIGKILL.
    """

    def __init__(
        self, identity: Identity, cgroup: Path | None, exit_: asyncio.Future[int] | asyncio.Future[None]
    ) -> None:
        self.identity = identity
        self.cgroup = cgroup
        self.exit = exit_
        self.killed = False
        self._oom_before = oom_kills(cgroup)

    @classmethod
    def of_child(cls, child: Child) -> RankProcess:
        return cls(Identity(child.pid, child.start, _process.boot_id()), child.cgroup, child.exit)

    @classmethod
    def adopt(cls, identity: Identity) -> RankProcess | None:
        """Take over a process of an earlier supervisor; None when it has ended."""
        fd = identity.open()
        if fd is None:
            return None
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            ended.set_result(None)

        loop.add_reader(fd, readable)
        return cls(identity, _cgroup_of(identity.pid), ended)

    def terminate(self) -> None:
        """Ask it to stop."""
        # A child is reaped in this thread, together with its future: until that is done its pid can't be anybody
        # else's.
        if not self.exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.identity.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, and everything that it started, now."""
        self.killed = True
        if self.cgroup is not None:
            _kill_cgroup(self.cgroup)
        elif not self.exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.identity.pid, signal.SIGKILL)

    async def end_tree(self, mark: str) -> None:
        """After the rank's own end: end what it left running, and give the group back.

        Args:
            mark: ``NAME=value`` in the environment of the rank's children.
        """
        if self.cgroup is None:
            while survivors := _process.kill_session(self.identity.pid, self.identity.start, mark):
                await asyncio.gather(*(_ended(pid) for pid in survivors))
        elif not remove_cgroup(self.cgroup):
            async with FileWatch() as watch:
                watch.add(self.cgroup / "cgroup.events")
                _kill_cgroup(self.cgroup)
                # The file is read behind each change: "populated 0" may have come before the watch.
                while not remove_cgroup(self.cgroup):
                    await watch.wait()

    @property
    def oom_killed(self) -> bool:
        """Whether a kernel counter proves that memory ran out. Ask before `end_tree`."""
        return not self.killed and oom_kills(self.cgroup) > self._oom_before


def _kill_cgroup(cgroup: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (cgroup / "cgroup.kill").write_text("1")


def _cgroup_of(pid: int) -> Path | None:
    """The cgroup v2 of a rank, if it is one of those that we make."""
    base = _process.cgroup_mount()
    if base is None:
        return None
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    path = next((base / line[3:].strip().lstrip("/") for line in lines if line.startswith("0::")), None)
    return path if path is not None and path.parent.name.startswith("kfasync-") else None


async def _ended(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        loop.remove_reader(fd)
        ended.set_result(None)

    loop.add_reader(fd, readable)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def oom_kills(cgroup: Path | None) -> int:
    """How many processes the kernel has killed for want of memory, by the closest counter that there is."""
    sources = [] if cgroup is None else [cgroup / "memory.events"]
    for path in [*sources, Path("/proc/vmstat")]:
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def read_exit_record(exit_file: Path, error_file: Path) -> dict[str, Any]:
    """What the rank itself wrote about its end; empty when it could not.

    torch elastic's error file (https://pytorch.org/docs/stable/elastic/errors.html) names the cause where the rank's
    own record has none, or only that it left, or that a process which torchrun started in it failed.
    """
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(exit_file.read_text())
    kind = str(record.get("exception") or "").partition(":")[0]
    if record.get("code") != 0 and (kind in ("", "SystemExit") or kind.endswith("ChildFailedError")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            found = _elastic_record(json.loads(error_file.read_text())["message"])
            # The rank's own time, where it left one, is finer than elastic's whole seconds.
            record |= {**found, "time": record.get("time") or found["time"]}
    return record


def _elastic_record(message: Any) -> dict[str, Any]:
    if isinstance(message, str):
        return {"exception": message, "traceback": "", "time": 0.0}
    extra = message["extraInfo"]
    return {
        "exception": message["message"],
        "traceback": extra.get("py_callstack", ""),
        "time": float(extra.get("timestamp", 0)),
    }
