from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kfasync.inotify import FileWatch

pytestmark = pytest.mark.anyio


async def test_a_change_before_the_wait_is_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()
    async with FileWatch() as watch:
        watch.add(file)
        file.write_text("one")
        async with asyncio.timeout(10):
            assert file in await watch.wait()


async def test_a_directory_tells_which_entry_changed(tmp_path: Path) -> None:
    async with FileWatch() as watch:
        watch.add(tmp_path)
        (tmp_path / "new").touch()
        async with asyncio.timeout(10):
            assert tmp_path / "new" in await watch.wait()


async def test_a_wait_that_is_cut_short_loses_nothing(tmp_path: Path) -> None:
    async with FileWatch() as watch:
        watch.add(tmp_path)
        waiting = asyncio.create_task(watch.wait())
        await asyncio.sleep(0)
        (tmp_path / "new").touch()
        waiting.cancel()
        await asyncio.wait([waiting])
        async with asyncio.timeout(10):
            assert tmp_path / "new" in await watch.wait()


async def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    async with FileWatch() as watch:
        with pytest.raises(FileNotFoundError, match="absent"):
            watch.add(tmp_path / "absent")


async def test_closing_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with FileWatch() as watch:
        watch.add(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
