"""Fixtures that every test shares."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A KFASYNC_HOME of the test's own."""
    path = tmp_path / "home"
    monkeypatch.setenv("KFASYNC_HOME", str(path))
    return path
