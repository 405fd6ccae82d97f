from __future__ import annotations

from pathlib import Path

import pytest

from kfasync.testing import chaos
from tests.soak.local import soak

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_tenth_of_the_soak_leaves_a_true_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFASYNC_HOME", str(tmp_path / "home"))
    try:
        report = await soak(tmp_path, jobs=100, seed=3)
    finally:
        await chaos.end_supervisor(tmp_path / "home")
    assert sum(report.statuses.values()) == 100
    assert report.statuses.get("Complete", 0) > 50
