from __future__ import annotations

from pathlib import Path

import pytest

from kfasync.worker import update_trainjob_status

CLOSED = "http://127.0.0.1:1/status"


def test_outside_a_job_it_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    assert update_trainjob_status(50) is False


@pytest.mark.parametrize("token", [None, "", " \n"])
def test_without_a_token_it_is_false(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    path = tmp_path / "token"
    if token is not None:
        path.write_text(token)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", CLOSED)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(path))
    assert update_trainjob_status(50) is False


@pytest.mark.parametrize("url", [CLOSED, "https://127.0.0.1:1/status", "no url", "ftp://x"])
def test_a_server_that_does_not_answer_is_false_and_never_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    path = tmp_path / "token"
    path.write_text("t")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", url)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(path))
    assert update_trainjob_status(50, 3, {"loss": 1.0}) is False


def test_a_value_that_is_no_number_is_false(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("t")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", CLOSED)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(path))
    assert update_trainjob_status("much") is False  # type: ignore[arg-type]
