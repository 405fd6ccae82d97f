"""Memory: a client with 1,000 jobs queued or running, and what sits idle afterwards."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from _measure import Figure, main, own_home

CLAIM = "client with 1,000 jobs: at most 150 MB, no growth after; supervisor and plain zygote idle: at most 70 MB"


def hold(gate: str) -> None:
    # Blocks until the benchmark opens the pipe's other end: no clock, no polling.
    with open(gate) as pipe:
        pipe.read()


def _resident(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 1e6


def _supervisor() -> dict[str, object]:
    command = [sys.executable, "-m", "kfasync.cli", "supervisor", "status", "-o", "json"]
    told: dict[str, object] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told


async def ours(jobs: int, gate: Path) -> list[Figure]:
    from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        first = await client.submit(train_func=int)
        await first.wait()
        empty = _resident(os.getpid())
        handles = [await client.submit(train_func=hold, func_args={"gate": str(gate)}) for _ in range(jobs)]
        waits = [asyncio.create_task(handle.wait()) for handle in handles]
        await handles[0].wait({"Running"})
        full = _resident(os.getpid())
        # Keeps a writer open, then lets go: who reads now or later finds the end at once.
        opened = os.open(gate, os.O_RDWR)
        os.unlink(gate)
        gate.touch()
        os.close(opened)
        await asyncio.gather(*waits)
        after = _resident(os.getpid())
    return [
        Figure("client, no job", [empty], "MB"),
        Figure(f"client, {jobs} jobs queued or running", [full], "MB", "a wait() on each"),
        Figure("client, when all have ended", [after], "MB"),
    ]


def idle() -> list[Figure]:
    told = _supervisor()
    pid = told["pid"]
    assert isinstance(pid, int)
    zygotes = told["zygotes"]
    assert isinstance(zygotes, list)
    figures = [Figure("supervisor, idle", [_resident(pid)], "MB")]
    return figures + [Figure("zygote without torch, idle", [_resident(zygote)], "MB") for zygote in zygotes[:1]]


def bare() -> Figure:
    code = "import psutil; print(psutil.Process().memory_info().rss)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return Figure("limit: python with psutil", [int(done.stdout) / 1e6], "MB")


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home(), tempfile.TemporaryDirectory() as directory:
        gate = Path(directory) / "gate"
        os.mkfifo(gate)
        figures = asyncio.run(ours(args.jobs, gate)) + idle()
    return [*figures, bare()]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=1, jobs=(1000, "jobs submitted"))
