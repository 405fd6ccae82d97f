"""From a process's exit to ``wait()`` returning, async and blocking."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from _measure import Figure, main, own_home, rival, stamp, stamped

CLAIM = "process exit to wait() returning: at most 5 ms async, 8 ms blocking (median)"


def train() -> None:
    """Compute for a while: by a job's end its start, and the fork ahead for the next one, are long over."""
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass


def last_breath(path: str) -> None:
    import atexit

    train()
    # What runs last in a rank, and what every Python process runs last.
    atexit.register(stamp, path)


async def ours_async(repeats: int, directory: Path) -> Figure:
    from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

    figure = Figure("kfasync, async")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        for number in range(repeats + 1):
            path = directory / f"async-{number}"
            handle = await client.submit(train_func=last_breath, func_args={"path": str(path)})
            await handle.wait()
            figure.samples.append((time.monotonic_ns() - stamped(path)) / 1e6)
    return _warm(figure)


def ours_blocking(repeats: int, directory: Path) -> Figure:
    from kfasync.trainer import LocalProcessBackendConfig, TrainerClient

    client = TrainerClient(LocalProcessBackendConfig())
    figure = Figure("kfasync, blocking")
    for number in range(repeats + 1):
        path = directory / f"blocking-{number}"
        handle = client.submit(train_func=last_breath, func_args={"path": str(path)})
        handle.wait()
        figure.samples.append((time.monotonic_ns() - stamped(path)) / 1e6)
    return _warm(figure)


def _warm(figure: Figure) -> Figure:
    del figure.samples[0]
    return figure


async def pidfd(repeats: int) -> Figure:
    figure = Figure("limit: fork, exit, pidfd in a loop")
    loop = asyncio.get_running_loop()
    for _ in range(repeats):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            train()
            os.write(write, str(time.monotonic_ns()).encode())
            os._exit(0)
        fd = os.pidfd_open(pid)
        ended = loop.create_future()
        loop.add_reader(fd, ended.set_result, None)
        await ended
        figure.samples.append((time.monotonic_ns() - int(os.read(read, 64))) / 1e6)
        loop.remove_reader(fd)
        _reap(pid, fd, read, write)
    return figure


def _reap(pid: int, *fds: int) -> None:
    os.waitpid(pid, 0)
    for fd in fds:
        os.close(fd)


SUBMITIT = """
import json, sys, tempfile, time
import submitit

def last_breath():
    import time
    return time.monotonic_ns()

samples = []
with tempfile.TemporaryDirectory() as folder:
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(timeout_min=5)
    for _ in range(int(sys.argv[1])):
        end = executor.submit(last_breath).result()
        samples.append((time.monotonic_ns() - end) / 1e6)
print(json.dumps(samples))
"""


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home(), tempfile.TemporaryDirectory() as directory:
        figures = [
            asyncio.run(ours_async(args.repeats, Path(directory))),
            ours_blocking(args.repeats, Path(directory)),
        ]
    if args.rivals:
        few = str(min(args.repeats, 10))
        figures += rival("KFASYNC_BENCH_SUBMITIT", "submitit, local", SUBMITIT, few, note="from the function's return")
    return [*figures, asyncio.run(pidfd(args.repeats))]


if __name__ == "__main__":
    main(CLAIM, measure)
