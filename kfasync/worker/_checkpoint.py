"""checkpoint_dir(): what a job leaves for itself after a restart, and for the jobs that go on from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["checkpoint_dir"]


def checkpoint_dir() -> Path:
    """The directory for the job's checkpoints: one for all its ranks, kept over restarts, suspend and resume.

    A job that was submitted with ``checkpoint_from=``, and a trial of PBT that goes on from another one, find a copy of
    that job's files here. So training code looks here first, and saves here before it returns; also from time to time,
    if it shall survive a kill. A kill may come at any moment: write beside the file and rename, as the example does.

    Returns:
        An absolute path of a directory that exists. Outside of a job it is ``checkpoint`` in the working directory, so
        that the same code runs by hand.

    Raises:
        OSError: The directory can't be made.

    Example:
        >>> saved = checkpoint_dir() / "model.pt"  # doctest: +SKIP
        >>> if saved.exists():  # doctest: +SKIP
        ...     model.load_state_dict(torch.load(saved))
        >>> for epoch in range(5):  # doctest: +SKIP
        ...     train_one(model)
        ...     torch.save(model.state_dict(), f"{saved}.new")
        ...     os.replace(f"{saved}.new", saved)
    """
    from pathlib import Path

    path = Path(os.environ.get("KFASYNC_CHECKPOINT_DIR") or "checkpoint").absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path
