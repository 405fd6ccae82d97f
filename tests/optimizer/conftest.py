"""Studies of real local processes, in a home that a module's tests share or in one of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import AsyncOptimizerClient
from tests.backends.local.conftest import home, own_home, shared_home

__all__ = ["home", "own_home", "shared_home"]


@pytest.fixture
async def optimizer(home: Path) -> AsyncIterator[AsyncOptimizerClient]:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        yield client
