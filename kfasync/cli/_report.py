"""``kfasync report``: a study as a file to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kfasync.cli._output import OutputError, line
from kfasync.cli._run import perform

if TYPE_CHECKING:
    from kfasync.cli._run import Command

__all__ = ["report"]


def report(name: str, path: Path) -> int:
    """Write the report of a study and print where it is."""

    async def body(command: Command) -> int:
        from kfasync.optimizer import AsyncOptimizerClient

        async with AsyncOptimizerClient() as optimizer:
            try:
                line(str(await optimizer.report(name, path)))
            except OSError as error:
                raise OutputError(f"{path} can't be written: {error.strerror}") from error
        return 0

    return perform(body)
