"""Fifty jobs at once from one event loop, and one stream of everything that happens to them."""

from __future__ import annotations

import asyncio
import contextlib

import kfasync
from kfasync.events import JobCompleted, JobStarted
from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

JOBS = 50


def train(learning_rate: float) -> float:
    weight = 0.0
    for step in range(20):
        weight -= learning_rate * 2 * (weight - 3)
        kfasync.report(step=step, error=abs(weight - 3))
    return abs(weight - 3)


async def tell(client: AsyncTrainerClient) -> None:
    """Print how far the whole lot is, as events arrive."""
    started = ended = 0
    async with contextlib.aclosing(client.events(since=0)) as events:
        async for event in events:
            started += isinstance(event, JobStarted)
            ended += isinstance(event, JobCompleted)
            if isinstance(event, JobCompleted) and ended % 10 == 0:
                print(f"{started} started, {ended} complete")
            if ended == JOBS:
                return


async def one(client: AsyncTrainerClient, learning_rate: float) -> tuple[float, float]:
    job = await client.submit(train_func=train, func_args={"learning_rate": learning_rate})
    error = await job.result()
    await job.delete()
    return error, learning_rate


async def main() -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client, asyncio.TaskGroup() as group:
        telling = group.create_task(tell(client))
        rates = [(i + 1) / JOBS for i in range(JOBS)]
        results = await asyncio.gather(*(one(client, rate) for rate in rates))
        await telling
        error, rate = min(results)
        print(f"best: learning rate {rate:.2f} with error {error:.2g}")


if __name__ == "__main__":
    asyncio.run(main())
