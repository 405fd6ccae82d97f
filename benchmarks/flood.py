"""A gigabyte of output from one rank, followed by a slow reader."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
from _measure import Figure, main, own_home

CLAIM = "1 GB of output, slow reader: client at most 120 MB RSS, the job slowed by at most 10%"


def flood(megabytes: int) -> float:
    import sys
    import time

    block = ("x" * 99 + "\n") * 10_000
    begin = time.monotonic()
    for _ in range(megabytes):
        sys.stdout.write(block)
    sys.stdout.flush()
    return time.monotonic() - begin


async def ours(megabytes: int, *, followed: bool) -> tuple[float, float]:
    """Seconds that the job needed, and the client's largest RSS in MB."""
    from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

    largest = 0.0
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=flood, func_args={"megabytes": megabytes})
        if followed:
            largest = await read_slowly(handle)
        seconds = await handle.result()
        # A gigabyte that is still to be written to the disk would slow whoever comes next.
        await handle.delete()
        return seconds, largest


async def read_slowly(handle: object) -> float:
    """Follow until the job has ended, a thousand lines and then a pause."""
    process, largest, count = psutil.Process(), 0.0, 0
    ended = asyncio.create_task(handle.wait())  # type: ignore[attr-defined]
    async with contextlib.aclosing(handle.logs(follow=True)) as lines:  # type: ignore[attr-defined]
        async for _ in lines:
            count += 1
            if count % 1000 == 0:
                largest = max(largest, process.memory_info().rss / 1e6)
                # The slowness of the reader, not a wait for anything.
                await asyncio.sleep(0.01)
                if ended.done():
                    break
    await ended
    return largest


def to_a_file(megabytes: int, home: Path) -> float:
    """The same function in a plain process whose stdout is a file."""
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import flood, sys\n"
    code += f"print(flood.flood({megabytes}), file=sys.stderr)"
    path = home.parent / "plain"
    with path.open("wb") as file:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=True, stdout=file, stderr=subprocess.PIPE, text=True)
    path.unlink()
    return float(done.stderr)


def measure(args: argparse.Namespace) -> list[Figure]:
    alone = Figure("kfasync, nobody reads", unit="s")
    followed = Figure("kfasync, a slow reader follows", unit="s")
    memory = Figure("kfasync, client's largest RSS", unit="MB")
    limit = Figure("limit: the same into a plain file", unit="s")
    with own_home() as home:

        def plain() -> None:
            limit.samples.append(to_a_file(args.megabytes, home))

        def nobody() -> None:
            alone.samples.append(asyncio.run(ours(args.megabytes, followed=False))[0])

        def somebody() -> None:
            seconds, largest = asyncio.run(ours(args.megabytes, followed=True))
            followed.samples.append(seconds)
            memory.samples.append(largest)

        asyncio.run(ours(1, followed=False))
        # By turns and in turning order, so that the disk's mood concerns all of them alike.
        turns = [plain, nobody, somebody]
        for number in range(args.repeats):
            for turn in (*turns[number % 3 :], *turns[: number % 3]):
                os.sync()
                turn()
    return [followed, alone, memory, limit]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=3, megabytes=(1000, "output of a job"))
