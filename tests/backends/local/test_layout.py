"""The directories of a home."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends._checkpoint import copy_checkpoint
from kfasync.backends.local._layout import JobDir, remove_tree

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


def test_a_directory_that_is_removed_gives_all_that_it_has_to_a_copier_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, removed = tmp_path / "job", shutil.rmtree
    (parent / "checkpoint").mkdir(parents=True)
    for name in "ab":
        (parent / "checkpoint" / name).write_text(name)

    def copy_when_half_of_it_is_gone(path: Path, ignore_errors: bool = False, **more: Any) -> None:
        for file in path.glob("checkpoint/a"):
            file.unlink()
            with pytest.raises(FileNotFoundError):
                copy_checkpoint(parent / "checkpoint", tmp_path / "child")
        removed(path, ignore_errors, **more)

    monkeypatch.setattr(shutil, "rmtree", copy_when_half_of_it_is_gone)
    remove_tree(parent)
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_was_cut_is_made_up_for_and_one_of_nothing_does_nothing(tmp_path: Path) -> None:
    for name in ("job", "job.gone"):
        (tmp_path / name / "deep").mkdir(parents=True)
    for _ in range(2):
        remove_tree(tmp_path / "job")
        assert list(tmp_path.iterdir()) == []
