"""Engines on a place in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kfasync.engine import Engine
from kfasync.state import Journal
from tests.engine.memory_place import MemoryBackend, Place, RecordingBackend


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal.sqlite3"


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
async def engine(anyio_backend: str, place: Place, journal_path: Path) -> AsyncIterator[Engine]:
    """An engine on a place that keeps no journal; afterwards no task of it may be left."""
    async with Engine(MemoryBackend(place), journal_path) as engine:
        yield engine
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("kfasync")] == []


@pytest.fixture
async def recording(anyio_backend: str, place: Place, journal_path: Path) -> AsyncIterator[Engine]:
    """An engine on a place that writes the journal by itself, through a connection of its own."""
    place.journal = await Journal.open(journal_path)
    async with Engine(RecordingBackend(place), journal_path) as engine:
        yield engine
    await place.journal.aclose()


@pytest.fixture
def new_engine(place: Place, journal_path: Path) -> Callable[[], Engine]:
    """Makes further engines on the same place and journal, as other processes would."""
    return lambda: Engine(MemoryBackend(place), journal_path)
