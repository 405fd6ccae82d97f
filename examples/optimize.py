"""Search hyperparameters of a small classifier: 12 trials, 2 at once."""

from __future__ import annotations

from kfasync.optimizer import TPE, Objective, OptimizerClient, Search, TrainJobTemplate, TrialConfig
from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig


def train(learning_rate: float, momentum: float) -> None:
    """Logistic regression by gradient descent on two clouds of points."""
    import math
    import random

    import kfasync

    draw = random.Random(7)
    points = [(draw.gauss(2 * label, 1), draw.gauss(-label, 1), label) for label in (0, 1) for _ in range(50)]
    weights, speed = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for epoch in range(20):
        loss, gradient = 0.0, [0.0, 0.0, 0.0]
        for x, y, label in points:
            score = weights[0] * x + weights[1] * y + weights[2]
            guess = 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))
            loss -= math.log(max(guess if label else 1 - guess, 1e-12)) / len(points)
            for index, factor in enumerate((x, y, 1.0)):
                gradient[index] += (guess - label) * factor / len(points)
        speed = [momentum * old - learning_rate * slope for old, slope in zip(speed, gradient, strict=True)]
        weights = [weight + step for weight, step in zip(weights, speed, strict=True)]
        kfasync.report(epoch=epoch, loss=loss)


def main() -> None:
    optimizer = OptimizerClient(LocalProcessBackendConfig())
    name = optimizer.optimize(
        TrainJobTemplate(trainer=CustomTrainer(func=train)),
        search_space={"learning_rate": Search.loguniform(0.001, 10), "momentum": Search.uniform(0, 0.95)},
        objectives=[Objective("loss", "minimize")],
        algorithm=TPE(random_state=1),
        trial_config=TrialConfig(num_trials=12, parallel_trials=2),
    )
    job = optimizer.wait_for_job_status(name)
    for trial in job.trials:
        losses = [f"{metric.min:.3f}" for metric in trial.metrics if metric.name == "loss"]
        print(trial.number, trial.status, trial.parameters, *losses)
    print("best:", optimizer.get_best_results(name))


if __name__ == "__main__":
    main()
