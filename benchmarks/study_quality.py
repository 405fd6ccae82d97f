"""What a hundred trials find: TPE with four at once, ours and Optuna's, and Optuna's one at a time."""

from __future__ import annotations

import argparse
import asyncio
import functools
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from _measure import Figure, main

CLAIM = "best value after 100 trials, TPE, four at once: no worse than Optuna's n_jobs=4"

_PARALLEL = 4


@dataclass(frozen=True)
class Task:
    """What is to be minimised.

    Attributes:
        name: Of the function.
        space: Low, high and whether by magnitude, by parameter; an int when both bounds are.
        value: The function.
        lasts: Seconds that a trial takes beside its computation, by a trial's own random numbers: so that trials
            overlap as those of a study do, and end in another order than they began.
    """

    name: str
    space: dict[str, tuple[float, float, bool]]
    value: Callable[[dict[str, Any]], float]
    lasts: tuple[float, float] = (0.002, 0.006)


def branin(point: dict[str, Any]) -> float:
    x, y = point["x"], point["y"]
    bent = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return float(bent**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


_WEIGHTS = (1.0, 1.2, 3.0, 3.2)
_SCALES = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_CENTRES = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann6(point: dict[str, Any]) -> float:
    at = [point[f"x{index}"] for index in range(6)]
    hills = (
        weight * math.exp(-sum(s * (x - c) ** 2 for s, x, c in zip(scale, at, centre, strict=True)))
        for weight, scale, centre in zip(_WEIGHTS, _SCALES, _CENTRES, strict=True)
    )
    return -sum(hills)


@functools.cache
def _digits() -> tuple[Any, ...]:
    import torch
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return inputs[order[:1200]], targets[order[:1200]], inputs[order[1200:]], targets[order[1200:]]


def mlp(point: dict[str, Any]) -> float:
    """Cross entropy of unseen digits after two epochs; the same point always gives the same value."""
    import torch

    inputs, targets, unseen, truth = _digits()
    draws = torch.Generator().manual_seed(0)
    layers = []
    for fan_in, fan_out in ((64, point["hidden"]), (point["hidden"], 10)):
        weight = torch.randn(fan_out, fan_in, generator=draws) / math.sqrt(fan_in)
        layers.append((weight.requires_grad_(), torch.zeros(fan_out, requires_grad=True)))

    def loss(images: Any, labels: Any) -> Any:
        inside = torch.nn.functional.linear(images, *layers[0]).relu()
        return torch.nn.functional.cross_entropy(torch.nn.functional.linear(inside, *layers[1]), labels)

    step = torch.optim.SGD([each for layer in layers for each in layer], point["rate"], point["momentum"])
    for _ in range(2):
        for batch in torch.randperm(len(inputs), generator=draws).split(point["batch"]):
            step.zero_grad()
            loss(inputs[batch], targets[batch]).backward()
            step.step()
    with torch.no_grad():
        reached = float(loss(unseen, truth))
    return reached if math.isfinite(reached) else 1e3


TASKS = (
    Task("Branin", {"x": (-5.0, 10.0, False), "y": (0.0, 15.0, False)}, branin),
    Task("Hartmann-6", {f"x{index}": (0.0, 1.0, False) for index in range(6)}, hartmann6),
    Task(
        "MLP on digits",
        {"rate": (1e-4, 1.0, True), "momentum": (0.0, 0.99, False), "hidden": (4, 128, True), "batch": (16, 256, True)},
        mlp,
        lasts=(0.0, 0.002),
    ),
)


async def ours(task: Task, seed: int, trials: int) -> float:
    """The sampler as a study's driver uses it: it is asked ahead in a thread, and told of each end when it comes."""
    from kfasync.optimizer import TPE, Objective, Search, SearchSpace
    from kfasync.optimizer._sampler import Sampler

    space = {
        name: (Search.logint if log else Search.int)(low, int(high))
        if isinstance(low, int)
        else (Search.loguniform if log else Search.uniform)(low, high)
        for name, (low, high, log) in task.space.items()
    }
    sampler = Sampler(SearchSpace(space), [Objective("loss")], TPE(random_state=seed))
    clock, slots, values = random.Random(seed), asyncio.Semaphore(_PARALLEL), []

    async def run(number: int, point: dict[str, Any]) -> None:
        await asyncio.sleep(clock.uniform(*task.lasts))
        value = await asyncio.to_thread(task.value, point)
        values.append(value)
        await asyncio.to_thread(sampler.tell, number, {"loss": value}, "complete")
        slots.release()

    async with asyncio.TaskGroup() as group:
        for number in range(trials):
            point = await asyncio.to_thread(sampler.ask, number)
            assert point is not None
            await slots.acquire()
            group.create_task(run(number, point))
    return min(values)


def optunas(task: Task, seed: int, trials: int, parallel: int) -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    clock = random.Random(seed)

    def objective(trial: optuna.Trial) -> float:
        point = {
            name: trial.suggest_int(name, int(low), int(high), log=log)
            if isinstance(low, int)
            else trial.suggest_float(name, low, high, log=log)
            for name, (low, high, log) in task.space.items()
        }
        if parallel > 1:
            time.sleep(clock.uniform(*task.lasts))
        return task.value(point)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials, n_jobs=parallel)
    return float(study.best_value)


def quartiles(label: str, task: Task, samples: list[float]) -> Figure:
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    note = f"quartiles {low:.4g}, {middle:.4g}, {high:.4g}; best {min(samples):.4g}, worst {max(samples):.4g}"
    return Figure(f"{label}, {task.name}", samples, "loss", note)


def measure(args: argparse.Namespace) -> list[Figure]:
    figures = []
    for task in TASKS:
        seeds = range(args.mlp if task.value is mlp else args.seeds)
        mine = [asyncio.run(ours(task, seed, args.trials)) for seed in seeds]
        figures.append(quartiles("kfasync", task, mine))
        if args.rivals:
            theirs = [optunas(task, seed, args.trials, _PARALLEL) for seed in seeds]
            figures.append(quartiles("Optuna n_jobs=4", task, theirs))
        figures.append(
            quartiles("limit: Optuna, one at a time", task, [optunas(task, seed, args.trials, 1) for seed in seeds])
        )
    return figures


if __name__ == "__main__":
    main(
        CLAIM,
        measure,
        repeats=1,
        seeds=(20, "seeds of Branin and Hartmann-6"),
        mlp=(20, "seeds of the MLP"),
        trials=(100, "trials a seed"),
    )
