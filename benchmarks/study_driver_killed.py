"""Kill -9 the driver of a study in its middle: how long until it goes on, and how many trials run again."""

from __future__ import annotations

import argparse
import asyncio
import collections
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from _measure import Figure, main, own_home, rival
from _study import moments, trial

if TYPE_CHECKING:
    from kfasync.optimizer import AsyncOptimizerClient

CLAIM = "kill -9 of a study's driver: the next trial starts within 1 s (median), and none runs again"

_TRIALS, _SECONDS = 16, 0.2


def lasting(x: float, y: float, folder: str, seconds: float) -> None:
    trial(folder, seconds)
    print(f"loss={x * x + y}")


async def killed(client: AsyncOptimizerClient) -> tuple[float, int]:
    """One study whose driver is killed: seconds until a new driver's first new trial runs, and trials run again."""
    from kfasync.optimizer import Search, TrainJobTemplate, TrialConfig
    from kfasync.trainer import CustomTrainer

    with tempfile.TemporaryDirectory() as folder:
        name = await client.optimize(
            TrainJobTemplate(trainer=CustomTrainer(func=lasting, func_args={"folder": folder, "seconds": _SECONDS})),
            search_space={"x": Search.uniform(-1, 1), "y": Search.uniform(0, 1)},
            trial_config=TrialConfig(_TRIALS, 2),
        )
        at, taken_up = await _kill(client, name)
        job = await client.wait_for_job_status(name, timeout=None)
        seen = moments(Path(folder))
    assert job.status == "Complete"
    assert len(job.trials) == _TRIALS
    runs = collections.Counter(each.job for each in seen)
    first = next(each.first for each in seen if each.job == taken_up)
    return (first - at) / 1e9, sum(runs.values()) - len(runs)


async def _kill(client: AsyncOptimizerClient, name: str) -> tuple[int, str]:
    """Kill the driver when four trials have ended: the moment, and the first trial that the next driver started."""
    from kfasync.events import TrialEnded, TrialStarted
    from kfasync.testing import chaos

    at, ended = 0, 0
    async with aclosing(client._studies.events(since=0, job=name)) as events:
        async for event in events:
            ended += isinstance(event, TrialEnded)
            if not at and ended == 4:
                (driver,) = chaos.ranks(await client._studies.engine.job(name))
                at = time.monotonic_ns()
                chaos.kill(driver)
            elif isinstance(event, TrialStarted) and event.attempt > 1:
                return at, event.trial
    raise AssertionError("the study ended")


async def ours(repeats: int) -> list[Figure]:
    from kfasync.optimizer import AsyncOptimizerClient
    from kfasync.trainer import LocalProcessBackendConfig

    pause = Figure("kfasync, until the study goes on", unit="s", note="the killed driver is started again by itself")
    again = Figure("kfasync, trials run again", unit="trials")
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        for _ in range(repeats):
            seconds, count = await killed(client)
            pause.samples.append(seconds)
            again.samples.append(count)
    return [pause, again]


async def limit(repeats: int) -> Figure:
    """The pause that the supervisor makes before it starts a killed driver again, and the start of two jobs."""
    from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

    figure = Figure("limit: pause before a restart + two jobs one after the other", unit="s")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        for _ in range(repeats):
            begin = time.monotonic()
            for _ in range(2):
                await (await client.submit(train_func=int)).wait()
            figure.samples.append(0.1 + time.monotonic() - begin)
    return figure


# The driver is a process of its own that is killed with its workers; another one restores what it left.
RAY = """
import json, os, signal, subprocess, sys, tempfile, time
code = '''
import os, sys, time
import ray
from ray import tune
folder, restore = sys.argv[1], sys.argv[2] == "restore"
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
def train(config):
    first = time.monotonic_ns()
    time.sleep(config["seconds"])
    tune.report({"loss": 0.0})
    with open(os.path.join(folder, "ran"), "a") as file:
        file.write(f"{config['n']} {first}" + chr(10))
if restore:
    tuner = tune.Tuner.restore(os.path.join(folder, "study"), train, resume_errored=True)
else:
    tuner = tune.Tuner(
        train,
        param_space={"n": tune.grid_search(list(range(16))), "seconds": 0.2},
        tune_config=tune.TuneConfig(max_concurrent_trials=2, metric="loss", mode="min"),
        run_config=tune.RunConfig(name="study", storage_path=folder, verbose=0),
    )
tuner.fit()
'''
def ran(folder):
    try:
        with open(os.path.join(folder, "ran")) as file:
            return [tuple(map(int, line.split())) for line in file]
    except FileNotFoundError:
        return []
def descendants(pid):
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
            except OSError:
                continue
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found
pauses, again = [], []
for _ in range(int(sys.argv[1])):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen([sys.executable, "-c", code, folder, "new"], stderr=subprocess.DEVNULL)
        while len(ran(folder)) < 6:
            time.sleep(0.05)
        at, victims = time.monotonic_ns(), descendants(process.pid)
        for victim in victims:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()
        before = ran(folder)
        subprocess.run([sys.executable, "-c", code, folder, "restore"], stderr=subprocess.DEVNULL, check=True)
        after = ran(folder)[len(before):]
        pauses.append((min(first for _, first in after) - at) / 1e9)
        again.append(len({n for n, _ in before} & {n for n, _ in after}))
print(json.dumps(pauses + again))
"""


def ray(repeats: int) -> list[Figure]:
    """Both of Ray Tune's numbers, from one run: it takes a minute to be killed and restored."""
    figures = []
    note = "killed with its workers, then Tuner.restore"
    for both in rival("KFASYNC_BENCH_RAY", "Ray Tune, until it goes on", RAY, str(repeats), unit="s", note=note):
        half = len(both.samples) // 2
        figures.append(Figure(both.who, both.samples[:half], "s", both.note))
        figures.append(Figure("Ray Tune, finished trials run again", both.samples[half:], "trials"))
    return figures


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home():
        figures = asyncio.run(ours(args.repeats))
        least = asyncio.run(limit(args.repeats))
    if args.rivals:
        figures += ray(min(args.repeats, 2))
    return [*figures, least]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=5)
