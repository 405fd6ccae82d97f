"""Train a small classifier with torch on data made here, and show its metrics while it trains."""

from __future__ import annotations

import torch
from torch import nn

import kfasync
from kfasync.trainer import LocalProcessBackendConfig, TrainerClient


def two_spirals(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two interleaved spirals: no line separates them, a small network does."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(points) % 2
    angle = 4.5 * torch.rand(points, generator=generator).sqrt() + 0.3
    noise = 0.03 * torch.randn(points, 2, generator=generator)
    turned = angle + torch.pi * label
    radius = (angle / 5).unsqueeze(1)
    return radius * torch.stack([turned.cos(), turned.sin()], dim=1) + noise, label


def train(epochs: int, learning_rate: float) -> float:
    # A network this small gains nothing from a second thread, and loses much on a busy machine.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features, labels = two_spirals(2000)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in torch.split(torch.randperm(len(labels)), 100):
            loss = nn.functional.cross_entropy(model(features[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            total += loss.item() * len(batch)
        accuracy = (model(features).argmax(dim=1) == labels).float().mean().item()
        kfasync.report(epoch=epoch, loss=total / len(labels), accuracy=accuracy)
    # The job has a working directory of its own.
    torch.save(model.state_dict(), "model.pt")
    return accuracy


def main() -> None:
    client = TrainerClient(LocalProcessBackendConfig())
    job = client.submit(train_func=train, func_args={"epochs": 30, "learning_rate": 0.005})
    print(f"job {job.name} was submitted; from another terminal: kfasync logs -f {job.name}")
    for report in job.metrics():
        loss, accuracy = report.values["loss"], report.values["accuracy"]
        print(
            f"epoch {report.step:3.0f}  loss {loss:.4f}  accuracy {accuracy:6.1%}  {'#' * int(40 * accuracy)}",
            flush=True,
        )
    print(f"accuracy: {job.result():.1%}")
    print(f"model: {next(path for path in job.files() if path.name == 'model.pt')}")


if __name__ == "__main__":
    main()
