from __future__ import annotations

from pathlib import Path

import pytest

from kfasync.worker import checkpoint_dir
from tests.worker.ranks import Ranks


def test_a_job_is_told_its_directory_which_is_made_if_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFASYNC_CHECKPOINT_DIR", str(tmp_path / "deep" / "checkpoint"))
    assert checkpoint_dir() == tmp_path / "deep" / "checkpoint"
    assert checkpoint_dir().is_dir()


def test_outside_of_a_job_it_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KFASYNC_CHECKPOINT_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert checkpoint_dir() == tmp_path / "checkpoint"
    assert checkpoint_dir().is_dir()


def test_it_costs_training_code_no_more_than_the_worker(ranks: Ranks) -> None:
    def train() -> list[str]:
        import os
        import sys

        os.environ["KFASYNC_CHECKPOINT_DIR"] = os.path.abspath("kept")
        import kfasync

        kfasync.checkpoint_dir()
        return sorted(name for name in sys.modules if name.startswith("kfasync.") and ".worker" not in name)

    assert ranks.run(train).value == []
