"""The supervisor's side of the zygotes: which one serves a job, and the children forked ahead."""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kfasync import log
from kfasync.backends.local import _process
from kfasync.backends.local._reaper import Reaper
from kfasync.errors import BackendError

__all__ = ["Cgroups", "Child", "ZygoteKey", "Zygotes", "import_environment", "remove_cgroup"]

_PROGRAM = Path(__file__).with_name("_zygote.py")
# Variables that libraries or the interpreter read while they are imported or started: a fork can't take them up later.
_IMPORT_PREFIXES = (
    "PYTHON",
    "LD_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "GOTO_",
    "KMP_",
    "GOMP_",
    "TORCH",
    "PYTORCH_",
    "LC_",
    "LANG",
)
# torchrun's own are meant for the script, which reads them when it runs.
_NOT_IMPORT = ("TORCHELASTIC_",)
# How many children wait ahead. Two hide the fork of one job behind the run of another; each costs a page table.
_AHEAD = 2
# How many zygotes in a row may die over one rank before its job is told.
_TRIES = 4
# Seconds that an unused child gets to leave; it takes a millisecond.
_LEAVE_TIMEOUT = 1.0

_log = log.get("local.zygotes")


def import_environment(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The part of an environment that has to be there when the interpreter starts, as a `ZygoteKey` has it."""
    names = (name for name in sorted(environ) if name.startswith(_IMPORT_PREFIXES))
    return tuple((name, environ[name]) for name in names if not name.startswith(_NOT_IMPORT))


class ZygoteKey(NamedTuple):
    """What two jobs must share to be forked from one zygote."""

    python: str
    preload: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]


@dataclass(eq=False)
class Child:
    """A process forked ahead, which becomes a rank when it gets its context.

    Attributes:
        exit: Its exit code, once it has ended.
    """

    pid: int
    start: int
    channel: socket.socket
    cgroup: Path | None
    exit: asyncio.Future[int]

    async def become(self, context: Mapping[str, Any]) -> None:
        """Send the context.

        Raises:
            BackendError: The child is gone.
        """
        body = json.dumps(context).encode()
        try:
            await asyncio.get_running_loop().sock_sendall(self.channel, struct.pack(">I", len(body)) + body)
        except OSError as error:
            raise BackendError(f"the forked process {self.pid} was gone before it could start") from error
        finally:
            self.channel.close()

    def dismiss(self) -> None:
        """Let it go away unused."""
        self.channel.close()
        self.exit.add_done_callback(lambda _: remove_cgroup(self.cgroup))


_Fork = asyncio.Task[Child | BackendError]


def _dismiss(fork: _Fork) -> None:
    if not fork.cancelled() and isinstance(child := fork.result(), Child):
        child.dismiss()


class _Zygote:
    """One zygote process and its children ahead."""

    def __init__(self, key: ZygoteKey, reaper: Reaper, cgroups: Cgroups) -> None:
        self.key = key
        self.used = asyncio.get_running_loop().time()
        self._reaper = reaper
        self._cgroups = cgroups
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._sending = asyncio.Lock()
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._ahead: deque[_Fork] = deque()
        self._ids = itertools.count()
        self.dead = False

    def start(self, output: Path) -> None:
        """Start the process.

        Raises:
            BackendError: It can't be started: the interpreter is gone, or the machine is short of processes.
        """
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "USER") if name in os.environ}
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise BackendError(f"no zygote can be started: {error}") from error
        try:
            with theirs, output.open("ab") as sink:
                self.process = subprocess.Popen(
                    [self.key.python, str(_PROGRAM), str(theirs.fileno()), *self.key.preload],
                    env={**keep, **dict(self.key.environ)},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise BackendError(f"the interpreter {self.key.python} can't be started: {error}") from error
        self._exit = self._reaper.expect(self.process.pid)
        self._exit.add_done_callback(self._ended)
        ours.setblocking(False)
        self._control = ours
        self._loop.add_reader(ours, self._receive)

    def _receive(self) -> None:
        try:
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control)
            return
        message = json.loads(data)
        if "error" in message:
            self._fail(message["error"])
        elif "ready" in message:
            if not self._ready.done():
                self._ready.set_result(None)
        elif (future := self._forks.pop(message["id"], None)) is not None and not future.done():
            future.set_result(message["pid"])

    def _ended(self, exit_: asyncio.Future[int]) -> None:
        self.process.returncode = exit_.result()
        self._fail(f"the zygote of {self.key.python} ended with {exit_.result()}; its output is in supervisor.log")

    def _fail(self, message: str) -> None:
        self.dead = True
        error = BackendError(message)
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._forks.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting; that is no leak of an error
        self._forks.clear()

    async def take(self, tasks: asyncio.TaskGroup) -> Child:
        """A child that is ready; another is forked ahead for the next one.

        Raises:
            BackendError: There can be none.
        """
        self.used = self._loop.time()
        while self._ahead:
            child = await self._of(self._ahead.popleft())
            if isinstance(child, Child):
                if not child.exit.done():
                    self.refill(tasks)
                    return child
                child.dismiss()
        # Whatever went wrong ahead, this one's error is the caller's.
        child = await self._of(tasks.create_task(self._fork_ahead()))
        if isinstance(child, BackendError):
            raise child
        self.refill(tasks)
        return child

    async def _of(self, fork: _Fork) -> Child | BackendError:
        """What became of a fork. Who gives up waiting leaves the child to the next one."""
        try:
            return await asyncio.shield(fork)
        except asyncio.CancelledError:
            if self.dead or len(self._ahead) >= _AHEAD:
                fork.add_done_callback(_dismiss)
            else:
                self._ahead.appendleft(fork)
            raise

    def refill(self, tasks: asyncio.TaskGroup) -> None:
        while len(self._ahead) < _AHEAD and not self.dead:
            self._ahead.append(tasks.create_task(self._fork_ahead()))

    async def _fork_ahead(self) -> Child | BackendError:
        try:
            return await self._fork()
        except BackendError as error:
            return error  # whoever needs a child forks again, and gets the error
        except OSError as error:
            return BackendError(f"no process can be forked: {error}")

    async def _fork(self) -> Child:
        await asyncio.shield(self._ready)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        cgroup = self._cgroups.make()
        number = next(self._ids)
        future = self._forks[number] = self._loop.create_future()
        try:
            with theirs:
                await self._send(json.dumps({"id": number, "cgroup": cgroup and str(cgroup)}).encode(), theirs)
            pid = await future
        except BaseException:
            ours.close()
            self._forks.pop(number, None)
            self._cgroups.give_back(cgroup)
            raise
        # A child that has ended already has no start time; its exit future says so.
        return Child(pid, _process.start_time(pid) or 0, ours, cgroup, self._reaper.expect(pid))

    async def _send(self, data: bytes, passed: socket.socket) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))]
        # One at a time: the kernel holds some ten requests (net.unix.max_dgram_qlen), and a loop has one writer a file.
        async with self._sending:
            while True:
                try:
                    self._control.sendmsg([data], rights)
                    return
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    raise BackendError(f"the zygote of {self.key.python} is gone") from error

    async def _writable(self) -> None:
        writable: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._control, writable.set_result, None)
        try:
            await writable
        finally:
            self._loop.remove_writer(self._control)

    async def close(self) -> None:
        """End the zygote and its unused children."""
        self.dead = True
        forks = list(self._ahead)
        self._ahead.clear()
        if not self._exit.done():
            # It would leave by itself at the socket's end, but not while it imports.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
            await asyncio.shield(self._exit)
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()
        # By now each was answered or has failed.
        for child in [await fork for fork in forks if not fork.cancelled()]:
            if isinstance(child, Child):
                child.dismiss()
                await asyncio.wait([child.exit], timeout=_LEAVE_TIMEOUT)


class Zygotes:
    """All zygotes of the supervisor.

    Args:
        idle_timeout: Seconds after which an unused one is closed.
    """

    def __init__(self, reaper: Reaper, cgroups: Cgroups, output: Path, idle_timeout: float) -> None:
        self._reaper = reaper
        self._cgroups = cgroups
        self._output = output
        self._idle_timeout = idle_timeout
        self._zygotes: dict[ZygoteKey, _Zygote] = {}

    def warm(self, key: ZygoteKey, tasks: asyncio.TaskGroup) -> _Zygote:
        """The zygote for a key, started if need be.

        Raises:
            BackendError: It can't be started.
        """
        zygote = self._zygotes.get(key)
        if zygote is None or zygote.dead:
            zygote = _Zygote(key, self._reaper, self._cgroups)
            zygote.start(self._output)
            self._zygotes[key] = zygote
            _log.info("zygote_started", pid=zygote.process.pid, preload=key.preload)
            zygote.refill(tasks)
            tasks.create_task(self._expire(zygote))
        return zygote

    async def take(self, key: ZygoteKey, tasks: asyncio.TaskGroup) -> Child:
        """A child for one rank.

        Raises:
            BackendError: The zygote could not be started.
        """
        for _ in range(_TRIES - 1):
            # One that was killed a moment ago is no reason to fail a job of which nothing ran yet.
            with contextlib.suppress(BackendError):
                return await self.warm(key, tasks).take(tasks)
        return await self.warm(key, tasks).take(tasks)

    async def _expire(self, zygote: _Zygote) -> None:
        loop = asyncio.get_running_loop()
        while not zygote.dead:
            left = zygote.used + self._idle_timeout - loop.time()
            if left <= 0:
                break
            await asyncio.wait([zygote._exit], timeout=left)
        await self._close(zygote)

    async def _close(self, zygote: _Zygote) -> None:
        if self._zygotes.get(zygote.key) is zygote:
            del self._zygotes[zygote.key]
        await zygote.close()

    async def aclose(self) -> None:
        for zygote in list(self._zygotes.values()):
            await self._close(zygote)

    @property
    def pids(self) -> list[int]:
        """Pids of the running zygotes."""
        return [zygote.process.pid for zygote in self._zygotes.values() if not zygote.dead]


def remove_cgroup(cgroup: Path | None) -> bool:
    """Remove a group, with those that its processes made in it. Returns False when it still has processes."""
    if cgroup is not None:
        try:
            for inner, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(inner)
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True


class Cgroups:
    """One cgroup for each child, made ahead, so that a rank and whatever it starts can be ended together."""

    def __init__(self, base: Path | None) -> None:
        self.base = base
        # No name of an earlier supervisor, whose groups may still be there.
        self._names = (f"{secrets.token_hex(4)}-{number}" for number in itertools.count())
        self._unremoved: list[Path] = []

    def make(self) -> Path | None:
        """A new group; None where there can be none: a rank runs without rather than not at all."""
        if self.base is None:
            return None
        self._unremoved = [path for path in self._unremoved if not remove_cgroup(path)]
        path = self.base / next(self._names)
        try:
            path.mkdir()
        except OSError as error:
            _log.warning("cgroup_refused", path=str(path), error=str(error))
            return None
        return path

    def give_back(self, cgroup: Path | None) -> None:
        """Remove a group whose only process, if there is one, is about to leave."""
        if cgroup is not None and not remove_cgroup(cgroup):
            self._unremoved.append(cgroup)

    def close(self) -> None:
        """Remove the directory of all groups, unless ranks are in it that go on."""
        if self.base is not None:
            with contextlib.suppress(OSError):
                self.base.rmdir()

    def leftovers(self) -> Iterable[Path]:
        """Groups that an earlier supervisor left."""
        return [] if self.base is None else [path for path in self.base.iterdir() if path.is_dir()]
