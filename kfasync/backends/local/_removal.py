"""What a supervisor does whose home somebody removes: it leaves, so that the next client gets one that can work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from kfasync import log
from kfasync.backends.local._layout import Home
from kfasync.backends.local._runner import Runner
from kfasync.inotify import FileWatch
from kfasync.state import Journal

__all__ = ["leave_when_removed"]

# Seconds until whoever removes a home, file by file, must have come to the journal.
_REMOVING = 1.0
# Seconds that jobs get to end, beyond their own grace.
_ENDING = 10.0

_log = log.get("local.supervisor")


async def leave_when_removed(
    home: Home, journal: Journal, runners: Mapping[str, Runner], leave: Callable[[], None]
) -> None:
    """Wait until the socket is gone, through which alone clients come, then leave.

    Jobs go on if their journal is still there, for the next supervisor adopts them. Else nobody could ever find or stop
    them, so they end first.

    Args:
        home: The home.
        journal: Its journal, as it was opened.
        runners: The jobs that run, at any time.
        leave: Ends the supervisor.
    """
    try:
        await _gone(home.socket, home.root)
    except OSError as error:
        _log.warning("home_unwatched", error=str(error))
        return
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_REMOVING):
            await _gone(home.journal, home.root)
    running = list(runners.values()) if journal.removed else []
    _log.warning("home_removed", ending=[runner.name for runner in running])
    for runner in running:
        runner.request_stop("cancel", "its KFASYNC_HOME was removed")
    if running:
        ends = [asyncio.create_task(runner.finished.wait()) for runner in running]
        await asyncio.wait(ends, timeout=_ENDING + max(runner.spec.grace for runner in running))
    leave()


async def _gone(path: Path, directory: Path) -> None:
    """Wait until a file of a directory is removed or replaced."""
    try:
        own = path.stat().st_ino
        async with FileWatch() as watch:
            watch.add(directory, content=False)
            while path.stat().st_ino == own:
                await watch.wait()
    except FileNotFoundError:
        return
