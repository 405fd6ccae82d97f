"""Which place a client works in when its user names none."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from kfasync import log, settings
from kfasync.errors import InvalidSpecError, UnsupportedError

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig

__all__ = ["choose"]

_CHOICES = "KFASYNC_BACKEND=local, container or kubernetes, or a backend config such as LocalProcessBackendConfig()"
#: A kubeconfig is YAML or JSON; this one top-level key doesn't deserve a YAML parser among the dependencies.
_CURRENT_CONTEXT = re.compile(
    r"""(?:^|[{,])[ \t]*["']?current-context["']?[ \t]*:[ \t]*["']?([^\s"'#,}]+)""", re.MULTILINE
)


@dataclass(frozen=True)
class _Local:
    """`LocalProcessBackendConfig` as it is by default, without the 150 ms that importing pydantic takes."""

    backend_path: ClassVar[str] = "kfasync.backends.local:LocalBackend"

    cleanup_venv: bool = True
    strict: bool = False


def choose(config: BackendConfig | None) -> BackendConfig:
    """The config to use.

    Args:
        config: What the user gave, if anything.

    Raises:
        InvalidSpecError: It is no backend config.
        UnsupportedError: This version can't run jobs there.
    """
    chosen = config
    if chosen is None:
        name, why = _automatic()
        chosen = _config(name, why)
        # Guarded: without a reader of the log, importing structlog would be most of the client's start.
        if logging.getLogger("kfasync.trainer").isEnabledFor(logging.INFO):
            log.get("trainer").info("backend_chosen", backend=name, because=why)
    else:
        why = "it was given"
    path = getattr(chosen, "backend_path", None)
    if not isinstance(path, str) or isinstance(chosen, type):
        raise InvalidSpecError(f"{chosen!r} is no backend config: use None, {_CHOICES}")
    if not path:
        raise UnsupportedError(
            f"{type(chosen).__name__} was chosen because {why}, but this version runs local processes only: "
            "set KFASYNC_BACKEND=local, or give LocalProcessBackendConfig()"
        )
    return chosen


def _automatic() -> tuple[str, str]:
    if name := settings.load().backend:
        return name, f"KFASYNC_BACKEND is {name!r}"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes", "this process runs in a pod"
    if found := _kubeconfig():
        return "kubernetes", f"{found[0]} has the current context {found[1]!r}"
    return "local", "there is neither KFASYNC_BACKEND nor a pod nor a kubeconfig with a current context"


def _kubeconfig() -> tuple[Path, str] | None:
    """The kubeconfig that names a current context, and the context; files in kubectl's order."""
    listed = os.environ.get("KUBECONFIG")
    paths = [Path(item) for item in listed.split(os.pathsep) if item] if listed else [Path("~/.kube/config")]
    for path in paths:
        try:
            text = path.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home directory.
            continue
        if match := _CURRENT_CONTEXT.search(text):
            return path, match[1]
    return None


def _config(name: str, why: str) -> BackendConfig:
    if name == "local":
        return _Local()
    if name == "container":
        from kfasync.backends.container._config import ContainerBackendConfig

        return cast("BackendConfig", ContainerBackendConfig())
    if name == "kubernetes":
        from kfasync.backends.kubernetes._config import KubernetesBackendConfig

        return cast("BackendConfig", KubernetesBackendConfig())
    raise InvalidSpecError(f"{why}, which is no backend: use {_CHOICES}")
