"""Distributed training: three nodes of one process each on this machine, with torch DDP over gloo."""

from __future__ import annotations

from typing import Any

from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient


def train(steps: int) -> dict[str, Any]:
    import os

    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    import kfasync

    dist.init_process_group(backend="gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    print(f"rank {rank} of {world} is process {os.getpid()}")

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Each rank sees data of its own; the gradients are averaged over all of them.
    features = torch.randn(256, 8, generator=torch.Generator().manual_seed(rank))
    target = features.sum(dim=1, keepdim=True)
    loss = torch.tensor(0.0)
    for step in range(steps):
        loss = torch.nn.functional.mse_loss(model(features), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
        if rank == 0:
            kfasync.report(step=step, loss=loss.item())

    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    everybody = [torch.empty_like(weights) for _ in range(world)]
    dist.all_gather(everybody, weights)
    dist.destroy_process_group()
    return {"world": world, "loss": loss.item(), "same": all(torch.equal(weights, other) for other in everybody)}


def main() -> None:
    client = TrainerClient(LocalProcessBackendConfig())
    name = client.train(
        runtime=client.get_runtime("torch-distributed"),
        trainer=CustomTrainer(func=train, func_args={"steps": 60}, num_nodes=3),
    )
    client.wait_for_job_status(name)
    print("\n".join(client.get_job_logs(name, step=None)))
    results = client.attach(name).results()
    for rank, value in sorted(results.items()):
        print(f"rank {rank}: {value}")


if __name__ == "__main__":
    main()
