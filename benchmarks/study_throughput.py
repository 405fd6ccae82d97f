"""Trials a second: a study whose trials only report a loss, two at once, a process each."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

from _measure import Figure, main, own_home, rival
from _study import in_time, trial
from throughput import fork

CLAIM = "trials a second, two at once, a process each: at least 50 with torch loaded, 120 without"


def plain(x: float, y: float, folder: str) -> None:
    trial(folder, 0)
    print(f"loss={x * x + y}")


def with_torch(x: float, y: float, folder: str) -> None:
    import torch

    assert torch.__version__
    plain(x, y, folder)


async def ours(trials: int, repeats: int, func: Callable[..., Any], label: str) -> Figure:
    from kfasync.optimizer import RandomSearch

    figure = Figure(label, unit="trials/s", note=f"{trials} distinct processes, first line to last line")
    await in_time(4, 2, func, RandomSearch())
    for _ in range(repeats):
        seen = await in_time(trials, 2, func, RandomSearch())
        figure.samples.append(trials / ((max(each.last for each in seen) - seen[0].first) / 1e9))
    return figure


OPTUNA = """
import json, subprocess, sys, time
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
trials, storage = int(sys.argv[1]), sys.argv[2] or None
def objective(trial):
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", 1e-4, 1, log=True)
    code = f"print({x} * {x} + {y})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)
study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler())
begin = time.monotonic()
study.optimize(objective, n_trials=trials, n_jobs=2)
print(json.dumps([trials / (time.monotonic() - begin)]))
"""

RAY = """
import json, sys, time
import ray
from ray import tune
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
def objective(config):
    tune.report({"loss": config["x"] ** 2 + config["y"]})
trials = int(sys.argv[1])
tuner = tune.Tuner(
    objective,
    param_space={"x": tune.uniform(-1, 1), "y": tune.loguniform(1e-4, 1)},
    tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=2, metric="loss", mode="min"),
    run_config=tune.RunConfig(verbose=0),
)
begin = time.monotonic()
results = tuner.fit()
assert not results.errors
print(json.dumps([trials / (time.monotonic() - begin)]))
"""


def rivals(trials: int) -> list[Figure]:
    figures: list[Figure] = []
    for storage, label in (("sqlite:///study.db", "Optuna + subprocess, SQLite"), ("", "Optuna + subprocess, memory")):
        figures += rival("KFASYNC_BENCH_RAY", label, OPTUNA, str(trials), storage, unit="trials/s", note="no torch")
    few = min(trials, 20)
    note = f"no torch, {few} trials"
    return figures + rival("KFASYNC_BENCH_RAY", "Ray Tune", RAY, str(few), unit="trials/s", note=note)


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home():
        figures = [
            asyncio.run(ours(args.trials, args.repeats, with_torch, "kfasync, torch loaded")),
            asyncio.run(ours(args.trials, args.repeats, plain, "kfasync, without torch")),
        ]
    if args.rivals:
        figures += rivals(args.trials)
    limits = [("yes", "limit: fork + exit, torch loaded"), ("", "limit: fork + exit, without torch")]
    return figures + [fork(args.trials, torch, label) for torch, label in limits]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=3, trials=(200, "trials of the study"))
