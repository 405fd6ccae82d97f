"""What the benchmarks of studies share: a study run to its end, and the moments that its trials wrote down."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle

if TYPE_CHECKING:
    from kfasync.optimizer import OptimizationJob
    from kfasync.optimizer._algorithms import Algorithm

__all__ = ["Moments", "idle", "in_time", "study", "trial"]

# As in `_measure`: a trial gets `trial` by value and imports neither this module nor what it imports.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Moments(NamedTuple):
    """One trial: its first and last line in nanoseconds, its process, its job's name."""

    first: int
    last: int
    pid: int
    start: int
    job: str


def trial(folder: str, seconds: float) -> None:
    """What every trial does: it lasts so long, and writes its moments. Its caller reports the loss."""
    import os
    import time

    first = time.monotonic_ns()
    time.sleep(seconds)
    with open("/proc/self/stat") as file:
        start = int(file.read().rpartition(")")[2].split()[19])
    job = os.environ.get("KFASYNC_JOB_NAME", "-")
    with open(os.path.join(folder, str(os.getpid())), "a") as file:
        file.write(f"{first} {time.monotonic_ns()} {os.getpid()} {start} {job}\n")


def moments(folder: Path) -> list[Moments]:
    """What all trials wrote, by their first lines."""
    lines = [line.split() for path in folder.iterdir() for line in path.read_text().splitlines()]
    return sorted(Moments(int(a), int(b), int(pid), int(start), job) for a, b, pid, start, job in lines)


def idle(firsts: list[int], lasts: list[int], parallel: int) -> list[float]:
    """Milliseconds that a slot was empty, by trial: the k-th one that ends makes room for the one behind those at once.

    A trial's last line is where it can still write; its process ends a moment later, so this is a bit too long.
    """
    starts, ends = sorted(firsts), sorted(lasts)
    return [(starts[k + parallel] - ends[k]) / 1e6 for k in range(len(starts) - parallel)]


async def in_time(trials: int, parallel: int, func: Callable[..., Any], algorithm: Algorithm) -> list[Moments]:
    """The moments of a study's trials; their function takes ``x``, ``y`` and ``folder``."""
    with tempfile.TemporaryDirectory() as folder:
        job = await study(trials, parallel, func, algorithm, folder=folder)
        seen = moments(Path(folder))
    assert job.status == "Complete", job
    assert len({(each.pid, each.start) for each in seen}) == len(seen) == trials
    return seen


async def study(
    trials: int, parallel: int, func: Callable[..., Any], algorithm: Algorithm, **func_args: Any
) -> OptimizationJob:
    """Run a study to its end."""
    from kfasync.optimizer import AsyncOptimizerClient, Search, TrainJobTemplate, TrialConfig
    from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig

    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        name = await client.optimize(
            TrainJobTemplate(trainer=CustomTrainer(func=func, func_args=func_args)),
            search_space={"x": Search.uniform(-1, 1), "y": Search.loguniform(1e-4, 1)},
            trial_config=TrialConfig(trials, parallel),
            algorithm=algorithm,
            name=f"bench-{time.monotonic_ns()}",
        )
        return await client.wait_for_job_status(name, timeout=None)
