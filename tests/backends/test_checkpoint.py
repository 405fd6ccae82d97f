"""Copies of checkpoints: whole or not there, and nobody's but their owner's."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kfasync.backends import _checkpoint
from kfasync.backends._checkpoint import copy_checkpoint


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A checkpoint with everything that one may have."""
    path = tmp_path / "parent"
    (path / "step-2" / "deep").mkdir(parents=True)
    (path / "model.pt").write_bytes(os.urandom(100_000))
    (path / "empty").touch()
    (path / "step-2" / "deep" / "script").write_text("#!/bin/sh\n")
    (path / "step-2" / "deep" / "script").chmod(0o750)
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_a_copy_has_the_files_their_modes_and_their_times(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    assert copy_checkpoint(parent, child)
    assert contents(child) == contents(parent)
    script = child / "step-2" / "deep" / "script"
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    assert (child / "model.pt").stat().st_mtime_ns == (parent / "model.pt").stat().st_mtime_ns


def test_who_writes_into_the_copy_harms_nobody(parent: Path, tmp_path: Path) -> None:
    before, child = contents(parent), tmp_path / "child"
    (parent / "inside").symlink_to(parent / "model.pt")
    (parent / "relative").symlink_to("step-2/deep/script")
    copy_checkpoint(parent, child)
    for path in (child / "inside", child / "relative", child / "empty"):
        with path.open("r+b") as file:
            file.write(b"changed")
    assert contents(parent) == {**before, "inside": before["model.pt"], "relative": before["step-2/deep/script"]}
    assert (child / "model.pt").read_bytes().startswith(b"changed")


def test_a_link_out_of_the_checkpoint_stays_what_it_is(parent: Path, tmp_path: Path) -> None:
    (parent / "data").symlink_to("/nowhere/data")
    copy_checkpoint(parent, tmp_path / "child")
    assert os.readlink(tmp_path / "child" / "data") == "/nowhere/data"


def test_a_copy_that_is_there_stays_as_it_is(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    child.mkdir()
    assert copy_checkpoint(parent, child)
    assert contents(child) == {}


def test_a_copy_that_nobody_wants_any_more_leaves_nothing(parent: Path, tmp_path: Path) -> None:
    assert not copy_checkpoint(parent, tmp_path / "child", lambda: True)
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_what_can_not_be_copied_is_named_and_nothing_is_left(parent: Path, tmp_path: Path) -> None:
    os.mkfifo(parent / "step-2" / "fifo")
    with pytest.raises(OSError, match="step-2/fifo"):
        copy_checkpoint(parent, tmp_path / "child")
    with pytest.raises(FileNotFoundError):
        copy_checkpoint(tmp_path / "nobody", tmp_path / "child")
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_a_filesystem_that_can_not_copy_by_itself_is_served_as_well(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: int) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", cannot)
    monkeypatch.setattr(_checkpoint, "_PIECE", 4096)
    assert copy_checkpoint(parent, tmp_path / "child")
    assert contents(tmp_path / "child") == contents(parent)


_KILLED = """
import os, signal, sys
from pathlib import Path
from kfasync.backends import _checkpoint
_checkpoint._PIECE = 4096
looks = 0
def unwanted():
    global looks
    looks += 1
    if looks == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return False
_checkpoint.copy_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), unwanted)
"""


@pytest.mark.parametrize("look", [1, 10, 25])
def test_a_copier_that_is_killed_leaves_no_half_copy_and_the_next_one_makes_it_whole(
    parent: Path, tmp_path: Path, look: int
) -> None:
    child = tmp_path / "child"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(parent), str(child), str(look)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not child.exists()
    assert [path.name for path in tmp_path.iterdir() if path != parent] == ["child.young"]
    assert copy_checkpoint(parent, child)
    assert contents(child) == contents(parent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["child", "parent"]
