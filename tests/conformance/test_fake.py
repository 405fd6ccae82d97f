"""The suite on the fake place, and the faults that can occur there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kfasync.testing import FakeBackendConfig, FakeScript, FakeWorld, plays
from kfasync.testing.conformance import BackendConformance


@plays(FakeScript(pending="Unschedulable", message="no node is large enough"))
def never_starts() -> None: ...


class TestFake(BackendConformance):
    patience = 20.0
    missing: ClassVar[Mapping[str, str]] = {
        "execution": "a fake place plays scripts",
        "processes": "a fake place has no processes",
        "other-clients": "a fake place is in the memory of one process",
    }

    @pytest.fixture(autouse=True)
    def _world(self, tmp_path: Path) -> None:
        self.world = FakeWorld(auto=True, files=tmp_path / "files")

    def config(self) -> FakeBackendConfig:
        return FakeBackendConfig(self.world)

    def unstartable(self) -> Mapping[str, Any]:
        return {"train_func": never_starts}
