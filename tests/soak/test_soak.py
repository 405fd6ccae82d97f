from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.local.conftest import end_supervisors
from tests.soak import local, study

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KFASYNC_HOME", str(tmp_path / "home"))
    yield
    end_supervisors(tmp_path / "home")


async def test_a_tenth_of_the_soak_leaves_a_true_journal(tmp_path: Path) -> None:
    report = await local.soak(tmp_path, jobs=100, seed=3)
    assert sum(report.statuses.values()) == 100
    assert report.statuses.get("Complete", 0) > 50


async def test_a_tenth_of_a_studys_soak_has_every_outcome_once_and_a_true_journal(tmp_path: Path) -> None:
    report = await study.soak(tmp_path, trials=50, seed=3)
    assert sum(report.outcomes.values()) == 50
    assert report.outcomes.get("complete", 0) > 25
