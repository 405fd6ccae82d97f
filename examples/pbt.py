"""Train a population of small classifiers: their hyperparameters change while they are trained."""

from __future__ import annotations

import json

from kfasync.optimizer import PBT, OptimizerClient, Search, TrainJobTemplate, Trial, TrialConfig
from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient


def train(learning_rate: float, momentum: float) -> None:
    """Ten more epochs of logistic regression on two clouds of points, from where the checkpoint is."""
    import json
    import math
    import os
    import random
    from typing import Any

    import kfasync

    saved = kfasync.checkpoint_dir() / "model.json"
    model: dict[str, Any] = {"epochs": 0, "weights": [0.0, 0.0, 0.0], "speed": [0.0, 0.0, 0.0]}
    if saved.exists():
        model = json.loads(saved.read_text())
    draw = random.Random(7)
    points = [(draw.gauss(2 * label, 1), draw.gauss(-label, 1), label) for label in (0, 1) for _ in range(50)]
    for _ in range(10):
        loss, gradient = 0.0, [0.0, 0.0, 0.0]
        for x, y, label in points:
            score = sum(weight * value for weight, value in zip(model["weights"], (x, y, 1.0), strict=True))
            guess = 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))
            loss -= math.log(max(guess if label else 1 - guess, 1e-12)) / len(points)
            for index, value in enumerate((x, y, 1.0)):
                gradient[index] += (guess - label) * value / len(points)
        kfasync.report(epoch=model["epochs"], loss=loss)
        for index in range(3):
            model["speed"][index] = momentum * model["speed"][index] - learning_rate * gradient[index]
            model["weights"][index] += model["speed"][index]
        model["epochs"] += 1
    # Beside its place, then renamed: whatever happens meanwhile, what is there is whole.
    young = saved.with_suffix(".new")
    young.write_text(json.dumps(model))
    os.replace(young, saved)


def loss_of(trial: Trial) -> float:
    return next(metric.latest for metric in trial.metrics if metric.name == "loss")


def main() -> None:
    optimizer = OptimizerClient(LocalProcessBackendConfig())
    name = optimizer.optimize(
        TrainJobTemplate(trainer=CustomTrainer(func=train)),
        search_space={"learning_rate": Search.loguniform(0.001, 10), "momentum": Search.uniform(0, 0.95)},
        algorithm=PBT(population_size=4, random_state=1),
        trial_config=TrialConfig(num_trials=16, parallel_trials=2),
    )
    job = optimizer.wait_for_job_status(name)
    for trial in job.trials:
        print(f"{trial.name} from {trial.parent or 'nothing'}: {loss_of(trial):.3f}")
    best = min(job.trials, key=loss_of)
    checkpoint = TrainerClient(LocalProcessBackendConfig()).attach(best.name).checkpoint()
    model = json.loads((checkpoint / "model.json").read_text())
    print(f"best: {best.name}, trained for {model['epochs']} epochs: {model['weights']}")


if __name__ == "__main__":
    main()
