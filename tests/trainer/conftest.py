"""Clients of a fake place."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from kfasync.testing import FakeBackendConfig, FakeRank, FakeScript, FakeWorld
from kfasync.trainer import AsyncTrainerClient, TrainerClient


def run_well(rank: FakeRank, **_: object) -> Generator[float, None, str]:
    rank.print(f"hello from {rank.rank}")
    rank.report(step=1, loss=0.5)
    yield 5
    rank.report(step=2, loss=0.25)
    rank.print("bye")
    return "value"


def run_badly(rank: FakeRank, **_: object) -> Generator[float, None, None]:
    yield 5
    raise RuntimeError("diverged")


def run_for_ever(rank: FakeRank, **_: object) -> Generator[float, None, None]:
    rank.print("waiting")
    yield math.inf


@pytest.fixture
def world(home: Path) -> FakeWorld:
    """A place whose time flies by itself; jobs named well, badly and endless do what their name says."""
    world = FakeWorld(auto=True)
    for name, script in (("well", run_well), ("badly", run_badly), ("endless", run_for_ever)):
        world.script(name, FakeScript(run=script))
    return world


@pytest.fixture
async def client(world: FakeWorld) -> AsyncIterator[AsyncTrainerClient]:
    async with AsyncTrainerClient(FakeBackendConfig(world)) as client:
        yield client


@pytest.fixture
def blocking(world: FakeWorld) -> TrainerClient:
    return TrainerClient(FakeBackendConfig(world))
