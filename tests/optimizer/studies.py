"""What tests do with studies of real local processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from kfasync.errors import JobFailedError
from kfasync.optimizer import (
    AsyncOptimizerClient,
    OptimizationJob,
    Search,
    TrainJobTemplate,
)
from kfasync.trainer import CustomTrainer

X = {"x": Search.uniform(0, 1)}


def template(func: Callable[..., Any], **trainer: Any) -> TrainJobTemplate:
    return TrainJobTemplate(trainer=CustomTrainer(func=func, **trainer))


async def finished(client: AsyncOptimizerClient, name: str, **wait: Any) -> OptimizationJob:
    return await client.wait_for_job_status(name, timeout=60, **wait)


async def failed(client: AsyncOptimizerClient, name: str) -> JobFailedError:
    with pytest.raises(JobFailedError) as caught:
        await client.wait_for_job_status(name, timeout=60)
    return caught.value


async def first(client: AsyncOptimizerClient, name: str, kind: type, count: int = 1, suffix: str = "") -> list[Any]:
    """The first so many events of a kind of a study; those of its trials' jobs with ``suffix="-"``."""
    found: list[Any] = []
    async with asyncio.timeout(60), aclosing(client._trials.events(since=0)) as events:
        async for event in events:
            if isinstance(event, kind) and event.job.startswith(name + suffix):
                found.append(event)
                if len(found) == count:
                    break
    return found
