"""One job: a function with arguments, its output, its metrics and its result."""

from __future__ import annotations

import kfasync
from kfasync.trainer import LocalProcessBackendConfig, TrainerClient


def train(learning_rate: float, epochs: int) -> float:
    loss = 1.0
    for epoch in range(epochs):
        loss *= 1 - learning_rate
        kfasync.report(epoch=epoch, loss=loss)
        print(f"epoch {epoch}: the loss is {loss:.3f}")
    return loss


def main() -> None:
    client = TrainerClient(LocalProcessBackendConfig())
    job = client.submit(train_func=train, func_args={"learning_rate": 0.3, "epochs": 4})
    for line in job.logs(follow=True):
        print(f"{job.name} | {line.text}")
    print(f"result: {job.result():.4f}")
    loss = client.get_job_metrics(job.name)["loss"]
    print(f"loss: from {loss.max:.3f} to {loss.min:.3f}")
    job.delete()


if __name__ == "__main__":
    main()
