"""Jobs a second: 200 submitted at once from one loop, each a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from _measure import Figure, main, own_home, rival

CLAIM = "jobs a second, submitted at once, a process each: at least 60 with torch loaded, 200 without"


def plain() -> tuple[int, int, bool]:
    import builtins
    import os

    # What one job leaves in its interpreter must be unseen by the next.
    seen = hasattr(builtins, "kfasync_mark")
    builtins.kfasync_mark = True  # type: ignore[attr-defined]
    with open("/proc/self/stat") as file:
        start = int(file.read().rpartition(")")[2].split()[19])
    return os.getpid(), start, seen


def with_torch() -> tuple[int, int, bool]:
    import torch

    assert torch.__version__
    return plain()


async def ours(jobs: int, repeats: int, func: Callable[[], Any], label: str) -> Figure:
    from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

    figure = Figure(label, unit="jobs/s", note=f"{jobs} distinct processes")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        await (await client.submit(train_func=func)).wait()
        for _ in range(repeats):
            begin = time.monotonic()
            handles = await asyncio.gather(*(client.submit(train_func=func) for _ in range(jobs)))
            await asyncio.gather(*(handle.wait() for handle in handles))
            figure.samples.append(jobs / (time.monotonic() - begin))
            told = [await handle.result() for handle in handles]
            assert len({(pid, start) for pid, start, _ in told}) == jobs
            assert not any(seen for *_, seen in told)
    return figure


FORK = """
import json, os, sys, time
if sys.argv[2]:
    import torch
jobs = int(sys.argv[1])
begin = time.monotonic()
pids = []
for _ in range(jobs):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
print(json.dumps([jobs / (time.monotonic() - begin)]))
"""


def fork(jobs: int, torch: str, label: str) -> Figure:
    command = [sys.executable, "-c", FORK, str(jobs), torch]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Figure(label, json.loads(done.stdout), "jobs/s")


def python_c(jobs: int) -> Figure:
    begin = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(jobs):
        running.append(subprocess.Popen([sys.executable, "-I", "-c", "pass"]))
        if len(running) == 4:
            running.pop(0).wait()
    for process in running:
        process.wait()
    return Figure("python -c pass, four at once", [jobs / (time.monotonic() - begin)], "jobs/s")


SUBMITIT = """
import json, sys, tempfile, time
import submitit
jobs = int(sys.argv[1])
with tempfile.TemporaryDirectory() as folder:
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(timeout_min=5)
    begin = time.monotonic()
    submitted = [executor.submit(pow, 2, 3) for _ in range(jobs)]
    for job in submitted:
        job.result()
    print(json.dumps([jobs / (time.monotonic() - begin)]))
"""

RAY = """
import json, sys, time
import ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=0.25)
class Actor:
    def run(self):
        return 1

jobs = int(sys.argv[1])
begin = time.monotonic()
def run():
    actor = Actor.remote()
    ray.get(actor.run.remote())
    ray.kill(actor)
for _ in range(jobs):
    run()
print(json.dumps([jobs / (time.monotonic() - begin)]))
"""


def measure(args: argparse.Namespace) -> list[Figure]:
    jobs = args.jobs
    with own_home():
        figures = [
            asyncio.run(ours(jobs, args.repeats, with_torch, "kfasync, torch loaded")),
            asyncio.run(ours(jobs, args.repeats, plain, "kfasync, without torch")),
        ]
    if args.rivals:
        figures += [python_c(jobs)]
        figures += rival("KFASYNC_BENCH_SUBMITIT", "submitit, without torch", SUBMITIT, str(jobs), unit="jobs/s")
        figures += rival("KFASYNC_BENCH_RAY", "Ray actors, without torch", RAY, str(min(jobs, 20)), unit="jobs/s")
    limits = [("yes", "limit: fork + exit, torch loaded"), ("", "limit: fork + exit, without torch")]
    return figures + [fork(jobs, torch, label) for torch, label in limits]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=3, jobs=(200, "jobs submitted at once"))
