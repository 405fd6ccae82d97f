"""From a printed line to the line in the hands of who follows the log."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

from _measure import Figure, main, own_home

CLAIM = "line printed to line received, following: at most 10 ms (median)"


def speak(lines: int) -> None:
    import time

    for _ in range(lines):
        # Spaced, so that each line is news of its own.
        time.sleep(0.02)
        print(time.monotonic_ns(), flush=True)


async def ours(lines: int) -> Figure:
    from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

    figure = Figure("kfasync", note="inotify")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=speak, func_args={"lines": lines})
        async with contextlib.aclosing(handle.logs(follow=True)) as found:
            async for line in found:
                figure.samples.append((time.monotonic_ns() - int(line.text)) / 1e6)
    return figure


async def inotify(lines: int) -> Figure:
    """A thread appends to a file, a loop is told by inotify and reads."""
    from kfasync.inotify import FileWatch

    figure = Figure("limit: inotify and a read")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        path.touch()

        def speak() -> None:
            with path.open("ab", buffering=0) as file:
                for _ in range(lines):
                    time.sleep(0.02)
                    file.write(b"%d\n" % time.monotonic_ns())

        async with FileWatch() as watch:
            watch.add(path)
            speaker = threading.Thread(target=speak)
            speaker.start()
            fd = os.open(path, os.O_RDONLY)
            while len(figure.samples) < lines:
                await watch.wait()
                now = time.monotonic_ns()
                figure.samples += [(now - int(line)) / 1e6 for line in os.read(fd, 1 << 16).split()]
            os.close(fd)
            speaker.join()
    return figure


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home():
        figures = [asyncio.run(ours(args.repeats))]
    return [*figures, asyncio.run(inotify(args.repeats))]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=200)
