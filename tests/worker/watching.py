"""Waiting for a file without polling."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kfasync.inotify import FileWatch


def appears(path: Path) -> None:
    """Return when there is such a file."""

    async def wait() -> None:
        async with FileWatch() as watch:
            watch.add(path.parent)
            while not path.exists():
                await watch.wait()

    asyncio.run(asyncio.wait_for(wait(), 10))
