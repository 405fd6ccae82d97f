"""Which place a client works in."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from kfasync.errors import InvalidSpecError, UnsupportedError
from kfasync.trainer import (
    AsyncTrainerClient,
    ContainerBackendConfig,
    KubernetesBackendConfig,
    LocalProcessBackendConfig,
    TrainerClient,
)
from kfasync.trainer._choice import choose


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KFASYNC_BACKEND", "KUBERNETES_SERVICE_HOST", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def _kubeconfig(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _is_local(config: object) -> bool:
    """Whether it says the same as the local config's defaults."""
    default = LocalProcessBackendConfig()
    return getattr(config, "backend_path", "") == default.backend_path and vars(config) == default.model_dump()


def test_without_anything_jobs_run_as_local_processes() -> None:
    assert _is_local(choose(None))


def test_a_given_config_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFASYNC_BACKEND", "kubernetes")
    config = LocalProcessBackendConfig(strict=True)
    assert choose(config) is config


def test_a_pod_means_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(UnsupportedError, match="runs in a pod"):
        choose(None)


@pytest.mark.parametrize(
    "text",
    [
        "kind: Config\ncurrent-context: dev\n",
        '{"kind": "Config", "current-context": "dev"}',
        "'current-context': 'dev'",
    ],
)
def test_a_current_context_means_its_cluster(tmp_path: Path, text: str) -> None:
    path = _kubeconfig(tmp_path / ".kube/config", text)
    with pytest.raises(UnsupportedError, match=r"current context 'dev'.*KFASYNC_BACKEND=local"):
        TrainerClient()
    path.unlink()
    assert _is_local(choose(None))


@pytest.mark.parametrize(
    "text", ["", 'current-context: ""\n', "current-context:\nkind: Config\n", "# current-context: x\n"]
)
def test_a_kubeconfig_without_a_current_context_says_nothing(tmp_path: Path, text: str) -> None:
    _kubeconfig(tmp_path / ".kube/config", text)
    assert _is_local(choose(None))


def test_the_first_kubeconfig_of_the_list_with_a_context_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = _kubeconfig(tmp_path / "a", "kind: Config\n"), _kubeconfig(tmp_path / "b", "current-context: b\n")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/absent:{first}:{second}")
    with pytest.raises(UnsupportedError, match="current context 'b'"):
        choose(None)


def test_the_variable_outranks_the_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _kubeconfig(tmp_path / ".kube/config", "current-context: dev\n")
    monkeypatch.setenv("KFASYNC_BACKEND", "local")
    assert _is_local(choose(None))
    monkeypatch.setenv("KFASYNC_BACKEND", "nonsense")
    with pytest.raises(InvalidSpecError, match=r"'nonsense'.*local, container or kubernetes"):
        choose(None)


@pytest.mark.parametrize("config", [ContainerBackendConfig(), KubernetesBackendConfig(client_configuration=object())])
@pytest.mark.parametrize("client", [AsyncTrainerClient, TrainerClient])
def test_what_this_version_lacks_is_refused_at_once(
    client: type[AsyncTrainerClient | TrainerClient], config: ContainerBackendConfig | KubernetesBackendConfig
) -> None:
    with pytest.raises(UnsupportedError, match=f"{type(config).__name__}.*runs local processes only"):
        client(config)


@pytest.mark.parametrize("config", ["local", 3, LocalProcessBackendConfig])
def test_what_is_no_config_is_refused(config: object) -> None:
    with pytest.raises(InvalidSpecError, match="no backend config"):
        TrainerClient(config)  # type: ignore[arg-type]


def test_the_choice_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kfasync"):
        choose(None)
    [record] = caplog.records
    assert record.kfasync["backend"] == "local"  # type: ignore[attr-defined]


def test_an_unknown_field_of_a_config_is_refused() -> None:
    with pytest.raises(ValueError, match="cleanup_vnv"):
        LocalProcessBackendConfig(cleanup_vnv=True)  # type: ignore[call-arg]
