"""What an attempt leaves on disk about its start, and what a later supervisor makes of that."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from kfasync.backends.local._gang import Exit
from kfasync.backends.local._launch import claim_file
from kfasync.backends.local._layout import JobDir
from kfasync.backends.local._process import Identity
from kfasync.backends.local._ranks import RankProcess, read_exit_record

__all__ = ["Launched", "read_claims", "read_launched", "write_launched"]


@dataclass(frozen=True)
class Launched:
    """How an attempt was started.

    Attributes:
        nonce: Names the files by which its ranks claim their places.
        python: The interpreter that its ranks run.
        devices: The GPUs of each node.
    """

    nonce: str
    python: str
    devices: tuple[tuple[str, ...], ...]


def write_launched(
    directory: JobDir, attempt: int, nonce: str, python: str, devices: tuple[tuple[str, ...], ...]
) -> None:
    """Say how an attempt is started, before its first rank is. The file is whole or not there."""
    path = directory.attempt(attempt) / "launch"
    young = path.with_suffix(".young")
    young.write_text(json.dumps({"nonce": nonce, "python": python, "devices": devices}))
    os.replace(young, path)


def read_launched(directory: JobDir, attempt: int) -> Launched:
    """How an attempt was started.

    Raises:
        FileNotFoundError: It was not.
        ValueError: Nobody can tell: the machine went down while the file was young.
    """
    told = json.loads((directory.attempt(attempt) / "launch").read_text())
    return Launched(told["nonce"], told["python"], tuple(map(tuple, told["devices"])))


def read_claims(directory: JobDir, attempt: int, world_size: int) -> dict[int, RankProcess | Exit | None] | None:
    """What became of the ranks of an attempt that an earlier supervisor began.

    Every rank that had not started yet is fenced: it can't start any more.

    Returns:
        For each rank the running process, its end, or None when it never started; None when nothing was launched.

    Raises:
        ValueError: Nobody can tell how it was launched.
    """
    try:
        nonce = read_launched(directory, attempt).nonce
    except FileNotFoundError:
        return None
    return {rank: _read_claim(directory, attempt, rank, nonce) for rank in range(world_size)}


def _read_claim(directory: JobDir, attempt: int, rank: int, nonce: str) -> RankProcess | Exit | None:
    claim = claim_file(directory, attempt, rank, nonce)
    try:
        claim.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        try:
            told = json.loads(claim.read_text())
            identity = Identity(told["pid"], told["start_time"], told["boot_id"])
        except (ValueError, KeyError):
            return None  # an earlier supervisor's fence
        process = RankProcess.adopt(identity)
        if process is not None:
            return process
        files = (directory.rank_file(attempt, rank, kind) for kind in ("exit", "error"))
        record = read_exit_record(*files)
        return Exit(rank, record.get("code"), float(record.get("time") or time.time()), bool(record.get("exception")))
    return None
