"""Kill real processes, and find what a block of code leaves behind.

Every process is named by its `Identity` (pid, start time, boot): nothing here ever signals a stranger that got the pid
of one that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.backends.local._process import Identity, boot_id, start_time
from kfasync.backends.local._wire import short_path
from kfasync.state import JobState

__all__ = [
    "Identity",
    "Killer",
    "end_ranks",
    "end_supervisor",
    "ended",
    "identify",
    "kill",
    "leaks",
    "ranks",
    "supervisor",
    "zygotes",
]


def identify(pid: int) -> Identity:
    """Who has this pid now: a client, a grandchild, anything.

    Raises:
        ProcessLookupError: Nobody.
    """
    for found in _living([pid]):
        return found
    raise ProcessLookupError(f"there is no process {pid}")


def _living(pids: Iterable[int]) -> list[Identity]:
    return [Identity(pid, start, boot_id()) for pid in pids if (start := start_time(pid)) is not None]


def ranks(job: JobState) -> list[Identity]:
    """The processes of a job's ranks, in order of rank; ranks that have no process yet are left out."""
    return [
        Identity(rank.pid, rank.start_time, rank.boot_id)
        for rank in job.ranks
        if rank.pid is not None and rank.start_time is not None
    ]


async def supervisor(home: Path) -> Identity | None:
    """The process that serves a KFASYNC_HOME, or None when there is none. It is not started for the question."""
    with socket.socket(socket.AF_UNIX) as peer, short_path(Home(home).socket) as name:
        peer.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(peer, name)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return next(iter(_living([pid])), None)


async def zygotes(home: Path) -> list[Identity]:
    """The zygotes of a KFASYNC_HOME's supervisor; none when nobody serves it."""
    if await supervisor(home) is None:
        return []
    link = Link(Home(home))
    try:
        return _living((await link.request("status"))["zygotes"])
    finally:
        await link.aclose()


def end_ranks(home: Path) -> None:
    """Kill what still runs in the directories of a home's jobs: when a supervisor ends, its ranks go on."""
    jobs = str(Home(home).jobs.resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(jobs):
                process.kill()


async def end_supervisor(home: Path) -> None:
    """Have the supervisor of a home leave, and wait until it has. Ranks that still run go on."""
    serving = await supervisor(home)
    if serving is not None:
        kill(serving, signal.SIGTERM)
        await ended(serving)


def kill(process: Identity, sig: int = signal.SIGKILL) -> bool:
    """Send a signal to this very process.

    Args:
        process: Whom.
        sig: What; SIGKILL, SIGSEGV, SIGTERM, SIGSTOP, …

    Returns:
        False when it has ended already.
    """
    fd = process.open()
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, sig)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


async def ended(process: Identity) -> None:
    """Wait until a process has ended, whoever's child it is."""
    fd = process.open()
    if fd is None:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


class Killer:
    """Kills at random, the same way for the same seed.

    The moments come from outside, usually from a client's events, so that it strikes while something happens and needs
    no clock.

    Args:
        victims: The processes to choose from, asked for at each strike.
        seed: Makes the choices repeatable.
        probability: Chance of a strike at each moment.
        sig: What to strike with.

    Attributes:
        killed: Whom it has killed, in order.

    Example:
        >>> killer = Killer(lambda: zygotes(home), seed=7)  # doctest: +SKIP
        >>> async with asyncio.TaskGroup() as group:  # doctest: +SKIP
        ...     strikes = group.create_task(killer.run(client.events()))
        ...     await work()
        ...     strikes.cancel()
    """

    def __init__(
        self,
        victims: Callable[[], Awaitable[Iterable[Identity]]],
        *,
        seed: int,
        probability: float = 0.1,
        sig: int = signal.SIGKILL,
    ) -> None:
        self.killed: list[Identity] = []
        self._victims = victims
        self._random = random.Random(seed)
        self._probability = probability
        self._sig = sig

    async def run(self, moments: AsyncIterable[object]) -> None:
        """Go on until the moments end, or until cancelled."""
        async for _ in moments:
            if self._random.random() < self._probability:
                await self.strike()

    async def strike(self) -> Identity | None:
        """Kill one of the victims now; None where there was none alive."""
        victims = sorted(await self._victims())
        self._random.shuffle(victims)
        for victim in victims:
            if kill(victim, self._sig):
                self.killed.append(victim)
                return victim
        return None


class leaks:
    """A block that must leave nothing behind: no asyncio task, thread, child process, descriptor or directory entry.

    Use ``async with`` in async tests (tasks are looked at, too), ``with`` elsewhere. What is still ending when the
    block ends gets a moment.

    Args:
        directories: Directories whose entries must be the same before and after.
        allow: Texts; what has one of them in its description is not counted.
        patience: Seconds for what is still ending.

    Raises:
        AssertionError: Lists what was left. Not raised when the block itself raised.

    Example:
        >>> with leaks():
        ...     thread = threading.Thread(target=print)
        ...     thread.start()
        <BLANKLINE>
    """

    def __init__(self, *directories: Path, allow: Iterable[str] = (), patience: float = 5.0) -> None:
        self._directories = directories
        # The loop's own threads for blocking calls live as long as the loop.
        self._allow = ("thread asyncio_", *allow)
        self._patience = patience

    def __enter__(self) -> Self:
        self._before = self._found()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.all_tasks()
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            tasks = asyncio.all_tasks() - self._tasks
            late = (await asyncio.wait(tasks, timeout=self._patience))[1] if tasks else set()
            await asyncio.to_thread(self._finish, [f"task {task.get_name()}: {task.get_coro()}" for task in late])

    def _finish(self, tasks: Iterable[str] = ()) -> None:
        deadline = time.monotonic() + self._patience
        for key, (_, wait) in self._found().items():
            if key not in self._before:
                wait(max(deadline - time.monotonic(), 0))
        found = [*tasks, *(text for key, (text, _) in self._found().items() if key not in self._before)]
        left = [text for text in found if not any(allowed in text for allowed in self._allow)]
        assert not left, "left behind:\n" + "\n".join(f"  {text}" for text in left)

    def _found(self) -> dict[object, tuple[str, Callable[[float], object]]]:
        """Everything that is there now: its identity, its description, and how to wait for its end."""
        found: dict[object, tuple[str, Callable[[float], object]]] = {}
        for thread in threading.enumerate():
            # The latter is a helper of this very look when a loop asks.
            if thread not in (threading.main_thread(), threading.current_thread()):
                found[thread] = f"thread {thread.name}", thread.join
        for child in psutil.Process().children(recursive=True):
            found[child] = f"process {child.pid} {_describe(child)}", functools.partial(_wait, child.pid)
        for entry in os.listdir("/proc/self/fd"):
            target = _target(entry)
            if target:
                found[entry, target] = f"descriptor {entry} of {target}", lambda seconds: None
        for directory in self._directories:
            for path in directory.iterdir() if directory.exists() else ():
                found[path] = f"directory entry {path}", lambda seconds: None
        return found


def _describe(process: psutil.Process) -> str:
    try:
        return f"({process.status()}) {' '.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return "(ending)"


def _target(entry: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{entry}")
    except FileNotFoundError:  # The descriptor of the listing itself.
        return ""


def _wait(pid: int, seconds: float) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(fd)
