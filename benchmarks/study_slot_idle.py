"""How long a slot of a study is empty: from a trial's last line to the first line of the one that takes its place."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from _measure import Figure, main, own_home, rival
from _study import idle, in_time, trial

if TYPE_CHECKING:
    from kfasync.optimizer._algorithms import Algorithm

CLAIM = "a slot's idle time between two trials, two at once: at most 15 ms (median), TPE at 1,000 trials too"

# Seconds that a measured trial lasts. Those before, which only make the study long, take no time.
_LASTS = 0.1


def lasting(x: float, y: float, folder: str, history: int, seconds: float) -> None:
    import os

    number = int(os.environ["KFASYNC_JOB_NAME"].rpartition("-")[2])
    trial(folder, seconds if number >= history else 0)
    print(f"loss={x * x + y}")


def with_torch(x: float, y: float, folder: str, history: int, seconds: float) -> None:
    import torch

    assert torch.__version__
    lasting(x, y, folder, history, seconds)


async def ours(trials: int, history: int, algorithm: Algorithm, func: Callable[..., Any], label: str) -> Figure:
    from functools import partial

    # Bound by keyword, so that the study sees the two parameters that it searches.
    await in_time(4, 2, partial(func, history=0, seconds=0), algorithm)
    seen = await in_time(history + trials, 2, partial(func, history=history, seconds=_LASTS), algorithm)
    late = [each for each in seen if int(each.job.rpartition("-")[2]) >= history]
    gaps = idle([each.first for each in late], [each.last for each in late], 2)
    return Figure(label, gaps, note=f"trials of {_LASTS * 1e3:.0f} ms")


OPTUNA = """
import json, subprocess, sys, threading, time
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
trials, seconds, history = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
space = {
    "x": optuna.distributions.FloatDistribution(-1, 1),
    "y": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
}
study = optuna.create_study(storage="sqlite:///study.db", sampler=optuna.samplers.TPESampler())
random = optuna.samplers.RandomSampler()
for _ in range(history):
    params = {name: random.sample_independent(study, None, name, each) for name, each in space.items()}
    study.add_trial(optuna.create_trial(params=params, distributions=space, value=params["x"] ** 2 + params["y"]))
firsts, lasts = [], []
code = f"import time; a = time.monotonic_ns(); time.sleep({seconds}); print(a, time.monotonic_ns())"
def objective(trial):
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", 1e-4, 1, log=True)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    first, last = map(int, done.stdout.split())
    firsts.append(first), lasts.append(last)
    return x ** 2 + y
study.optimize(objective, n_trials=trials, n_jobs=2)
firsts.sort(), lasts.sort()
print(json.dumps([(firsts[k + 2] - lasts[k]) / 1e6 for k in range(trials - 2)]))
"""

RAY = """
import json, os, sys, tempfile, time
import ray
from ray import tune
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
trials, seconds = int(sys.argv[1]), float(sys.argv[2])
folder = tempfile.mkdtemp()
def objective(config):
    first = time.monotonic_ns()
    time.sleep(seconds)
    tune.report({"loss": config["x"] ** 2})
    with open(os.path.join(folder, str(os.getpid())), "a") as file:
        file.write(f"{first} {time.monotonic_ns()}\\n")
tune.Tuner(
    objective,
    param_space={"x": tune.uniform(-1, 1)},
    tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=2, metric="loss", mode="min"),
    run_config=tune.RunConfig(verbose=0),
).fit()
rows = [line.split() for name in os.listdir(folder) for line in open(os.path.join(folder, name))]
firsts, lasts = sorted(int(a) for a, _ in rows), sorted(int(b) for _, b in rows)
print(json.dumps([(firsts[k + 2] - lasts[k]) / 1e6 for k in range(len(rows) - 2)]))
"""

# Two children at once; the parent forks another when one has ended. Python can't be faster.
FORK = """
import json, os, sys, time
import torch
trials, seconds = int(sys.argv[1]), float(sys.argv[2])
read, write = os.pipe()
def start():
    if os.fork():
        return
    first = time.monotonic_ns()
    time.sleep(seconds)
    os.write(write, f"{first} {time.monotonic_ns()}\\n".encode())
    os._exit(0)
start()
time.sleep(seconds / 2)
start()
for number in range(trials):
    os.wait()
    if number < trials - 2:
        start()
os.close(write)
rows = [line.split() for line in os.fdopen(read)]
firsts, lasts = sorted(int(a) for a, _ in rows), sorted(int(b) for _, b in rows)
print(json.dumps([(firsts[k + 2] - lasts[k]) / 1e6 for k in range(len(rows) - 2)]))
"""


def limit(trials: int) -> Figure:
    command = [sys.executable, "-c", FORK, str(trials), str(_LASTS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Figure("limit: wait + fork of a torch-loaded process", json.loads(done.stdout))


def rivals(trials: int, history: int) -> list[Figure]:
    numbers = (str(trials), str(_LASTS), str(history))
    note = "SQLite, two threads, without torch"
    figures = rival("KFASYNC_BENCH_RAY", f"Optuna + subprocess, TPE at {history}", OPTUNA, *numbers, note=note)
    return figures + rival("KFASYNC_BENCH_RAY", "Ray Tune, random", RAY, str(min(trials, 20)), numbers[1])


def measure(args: argparse.Namespace) -> list[Figure]:
    from kfasync.optimizer import TPE, RandomSearch

    with own_home():
        figures = [
            asyncio.run(ours(args.trials, 0, RandomSearch(), lasting, "kfasync, random")),
            asyncio.run(ours(args.trials, 0, RandomSearch(), with_torch, "kfasync, random, torch loaded")),
            asyncio.run(ours(args.trials, 0, TPE(), lasting, "kfasync, TPE")),
            asyncio.run(ours(args.trials, args.history, TPE(), lasting, f"kfasync, TPE at {args.history}")),
        ]
    if args.rivals:
        figures += rivals(args.trials, args.history)
    return [*figures, limit(args.trials)]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=1, trials=(60, "trials of a study"), history=(1000, "trials of the long one before"))
