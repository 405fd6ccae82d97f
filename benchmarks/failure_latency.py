"""A job that fails: from the process's exit to the raised error."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from _measure import Figure, main, own_home, stamp, stamped
from exit_latency import pidfd

CLAIM = "a failing job, exit to the raised error: at most 10 ms (median)"


def fail(path: str) -> None:
    import atexit

    atexit.register(stamp, path)
    raise ValueError("on purpose")


async def ours(repeats: int, directory: Path) -> Figure:
    from kfasync.errors import JobFailedError
    from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

    figure = Figure("kfasync", note="with exception, rank and traceback")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        for number in range(repeats + 1):
            path = directory / str(number)
            handle = await client.submit(train_func=fail, func_args={"path": str(path)})
            try:
                await handle.wait()
            except JobFailedError:
                figure.samples.append((time.monotonic_ns() - stamped(path)) / 1e6)
    del figure.samples[0]
    return figure


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home(), tempfile.TemporaryDirectory() as directory:
        figures = [asyncio.run(ours(args.repeats, Path(directory)))]
    return [*figures, asyncio.run(pidfd(args.repeats))]


if __name__ == "__main__":
    main(CLAIM, measure)
