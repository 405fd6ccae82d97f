"""Where everything of one KFASYNC_HOME lives on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["Home", "JobDir", "remove_tree"]

# Directories that are made within the loop: a hop to a thread costs more than the half millisecond they take.
_AT_ONCE = 32
# Bytes that are written in the time that a directory takes.
_BYTES_A_NODE = 1 << 16
_PRIVATE = "private-"


@dataclass(frozen=True)
class Home:
    """The directory that one supervisor serves."""

    root: Path

    @property
    def place(self) -> str:
        """Identity of the place: the resolved directory."""
        return f"local:{self.root.resolve()}"

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite3"

    @property
    def socket(self) -> Path:
        return self.root / "supervisor.sock"

    @property
    def lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def log(self) -> Path:
        return self.root / "supervisor.log"

    @property
    def ballast(self) -> Path:
        return self.root / "ballast"

    @property
    def environments(self) -> Path:
        return self.root / "environments"

    @cached_property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def job(self, uid: str) -> JobDir:
        return JobDir(self.jobs / uid)

    def create(self) -> None:
        """Make the directory, readable by its owner only."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.jobs.mkdir(mode=0o700, exist_ok=True)


@dataclass(frozen=True)
class JobDir:
    """The directory of one job. It outlives the supervisor; everything a restart needs is in it."""

    root: Path

    @property
    def payload(self) -> Path:
        return self.root / "payload"

    def private(self, name: str) -> Path:
        """A file with environment, secrets or tokens: 0600, removed when the job has ended.

        They have no folder of their own: ext4 takes 4 ms to remove one, in which a supervisor could start a job.
        """
        return self.root / f"{_PRIVATE}{name}"

    def forget_private(self) -> None:
        """Remove the private files."""
        with contextlib.suppress(OSError), os.scandir(self.root) as entries:
            for entry in entries:
                if entry.name.startswith(_PRIVATE):
                    os.unlink(entry.path)

    @property
    def launch(self) -> Path:
        return self.private("launch.json")

    def work(self, node: int) -> Path:
        return self.root / f"node-{node}"

    @property
    def checkpoint(self) -> Path:
        """What the job's code knows as `kfasync.checkpoint_dir`, made when it asks, or a copy made before it starts."""
        return self.root / "checkpoint"

    def attempt(self, attempt: int) -> Path:
        return self.root / f"attempt-{attempt}"

    def rank_prefix(self, attempt: int, rank: int) -> str:
        """What the paths of a rank's files begin with; as text, for paths in bulk cost more than what is in them."""
        return f"{self.root}/attempt-{attempt}/rank-{rank}."

    def rank_file(self, attempt: int, rank: int, kind: str) -> Path:
        return Path(self.rank_prefix(attempt, rank) + kind)

    async def create(self, payload: bytes, launch: bytes, nodes: int) -> None:
        """Write what a start needs. Complete before the intent is journaled, so that a journaled job can be started."""
        # Before anything is awaited: it tells a second request for this job that there was a first.
        self.root.mkdir(mode=0o700)
        if nodes > _AT_ONCE or len(payload) > _AT_ONCE * _BYTES_A_NODE:
            await asyncio.to_thread(self._fill, payload, launch, nodes)
        else:
            self._fill(payload, launch, nodes)

    def _fill(self, payload: bytes, launch: bytes, nodes: int) -> None:
        for node in range(nodes):
            self.work(node).mkdir(mode=0o700)
        write_private(self.payload, payload)
        write_private(self.launch, launch)


def remove_tree(path: Path) -> None:
    """Remove a directory and what it has; nothing happens if it is not there.

    It is out of sight at once: who copies from it meanwhile finds all that it looks for or nothing, never a part.
    """
    gone = path.with_name(f"{path.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.rename(path, gone)
    except OSError:  # It is not there, or the disk is too full even for another name.
        gone = path
    shutil.rmtree(gone, ignore_errors=True)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
