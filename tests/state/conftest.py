"""Journals for tests. Every one of them is replayed at the end, at every prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kfasync.state import Journal, verify

Opener = Callable[..., Awaitable[Journal]]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a journal may be made; what is there at the end must replay to what was recorded."""
    path = tmp_path / "home" / "journal.sqlite3"
    yield path
    if path.exists():
        verify(path)


@pytest.fixture
async def open_journal(path: Path) -> AsyncIterator[Opener]:
    """Opens journals, at ``path`` when nothing else is said, and closes them."""
    async with AsyncExitStack() as stack:

        async def open_one(where: Path = path, **options: bool) -> Journal:
            journal = await Journal.open(where, **options)
            stack.push_async_callback(journal.aclose)
            return journal

        yield open_one


@pytest.fixture
async def journal(open_journal: Opener) -> Journal:
    """An open journal at ``path``."""
    return await open_journal()
