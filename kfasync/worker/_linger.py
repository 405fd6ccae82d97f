"""Ranks of one process group end together.

The function of one rank may have returned while a peer is still setting up the group: it connects to all others, and
asks the store that rank 0 holds. An end there would be the peer's failure. torchrun avoids half of that by holding the
store in its agent; here each rank keeps a lock on its claim while its function runs, and waits for every other's lock
before it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import Any

__all__ = ["hold", "linger"]

_held: list[int] = []


def hold(claim: str) -> None:
    """Lock this rank's claim until `linger`, or until the process ends in any way. POSIX locks pass to no child."""
    fd = os.open(claim, os.O_RDWR | os.O_CLOEXEC)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    _held.append(fd)


def linger(ctx: dict[str, Any]) -> None:
    """Let go of the lock; in a process group, wait until the function of every other rank of this machine has ended."""
    for fd in _held:
        # User code may have closed it, which released it.
        with contextlib.suppress(OSError):
            fcntl.lockf(fd, fcntl.LOCK_UN)
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    own = f"rank-{ctx['rank']}."
    for rank in range(int(os.environ.get("WORLD_SIZE", "1"))):
        claim = ctx["pid_file"].replace(own, f"rank-{rank}.")
        if rank == ctx["rank"] or not os.path.exists(claim):
            continue
        fd = os.open(claim, os.O_RDWR | os.O_CLOEXEC)
        fcntl.lockf(fd, fcntl.LOCK_SH)  # the kernel wakes us when the holder lets go or dies
        os.close(fd)
