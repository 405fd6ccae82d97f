"""The checkpoint directory of a job that goes on from another one: a copy, made before anything of the job runs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, ClassVar

from kfasync.backends._checkpoint import copy_checkpoint
from kfasync.backends.local._layout import Home, JobDir
from kfasync.errors import BackendError
from kfasync.jobs import JobSpec
from kfasync.state import Journal

__all__ = ["CheckpointError", "provide_checkpoint"]


class CheckpointError(BackendError):
    """There is no checkpoint that the job could start with; the message says why, and it fails by that."""

    reason: ClassVar[str] = "NoCheckpoint"


async def provide_checkpoint(
    home: Home, journal: Journal, spec: JobSpec, job: JobDir, stop: asyncio.Future[Any]
) -> None:
    """See to it that a job has the checkpoint that it is to start with; one that needs none, or has it, stays as it is.

    Other jobs make their directory when they ask for it: most never do, and ext4 takes long to remove one.

    Args:
        home: The home.
        journal: Its journal.
        spec: The job.
        job: Its directory.
        stop: Done when the job is to be stopped; then a copy that is under way is given up.

    Raises:
        CheckpointError: The job that it goes on from is gone, has not ended, or left nothing.
        OSError: The checkpoint can't be copied: the disk is full, for instance.
    """
    if spec.checkpoint_from is None or job.checkpoint.exists():
        return
    source = await _left_by(spec.checkpoint_from, home, journal)
    unwanted = threading.Event()
    stop.add_done_callback(lambda _: unwanted.set())
    try:
        await asyncio.to_thread(copy_checkpoint, source, job.checkpoint, unwanted.is_set)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"the job {spec.checkpoint_from!r} was deleted while its checkpoint was copied"
        ) from error
    finally:
        unwanted.set()  # The thread must not go on when nobody waits for it any more.


async def _left_by(name: str, home: Home, journal: Journal) -> Path:
    """The checkpoint of a job that has ended."""
    job = await journal.job(home.place, name)
    if job is None:
        raise CheckpointError(f"checkpoint_from={name!r}: there is no such job, or not any more")
    if not job.terminal:
        # A suspended one may be resumed while it is copied.
        raise CheckpointError(f"checkpoint_from={name!r}: that job has not ended; wait for it or cancel it first")
    path = home.job(job.uid).checkpoint
    if not path.is_dir() or not any(path.iterdir()):
        raise CheckpointError(
            f"checkpoint_from={name!r}: that job left no checkpoint; its code must save into kfasync.checkpoint_dir()"
        )
    return path
