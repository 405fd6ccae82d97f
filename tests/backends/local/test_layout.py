"""The directories of a home."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kfasync.backends.local._layout import JobDir

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("nodes", "size"), [(1000, 10), (1, 64 << 20)])
async def test_a_large_job_s_directory_is_made_while_the_loop_goes_on(tmp_path: Path, nodes: int, size: int) -> None:
    directory = JobDir(tmp_path / "job")
    creating = asyncio.create_task(directory.create(bytes(size), b"{}", nodes))
    turns = 0
    while not creating.done():
        await asyncio.sleep(0)
        turns += 1
        # From the first turn on, so that nobody else begins it.
        assert directory.root.exists()
    assert turns > 2
    assert directory.payload.stat().st_size == size
    assert [directory.work(node).is_dir() for node in range(nodes)] == [True] * nodes


async def test_a_small_job_s_directory_is_made_in_one_step(tmp_path: Path) -> None:
    creating = asyncio.create_task(JobDir(tmp_path / "job").create(b"", b"{}", 1))
    await asyncio.sleep(0)
    assert creating.done()
