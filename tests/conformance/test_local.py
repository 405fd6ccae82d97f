"""The suite on local processes, and the faults that can occur there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from kfasync.testing import chaos
from kfasync.testing.conformance import BackendConformance
from kfasync.trainer import LocalProcessBackendConfig


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("local") / "home"
    yield path
    asyncio.run(chaos.end_supervisor(path))


class TestLocal(BackendConformance):
    patience = 15.0
    missing: ClassVar[Mapping[str, str]] = {
        "memory-limits": "resources of local processes decide admission; they are not enforced",
        "unstartable": "whatever is asked for runs, alone if need be",
    }

    def config(self) -> LocalProcessBackendConfig:
        return LocalProcessBackendConfig()

    @pytest.fixture
    def home(self, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """One supervisor for all tests: starting it takes longer than most of them."""
        monkeypatch.setenv("KFASYNC_HOME", str(shared_home))
        monkeypatch.setenv("KFASYNC_PRELOAD", "")
        return shared_home
