"""Jobs as processes of this machine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfasync.backends.local._backend import LocalBackend
    from kfasync.backends.local._config import LocalProcessBackendConfig

__all__ = ["LocalBackend", "LocalProcessBackendConfig"]

_HOMES = {"LocalBackend": "_backend", "LocalProcessBackendConfig": "_config"}


def __getattr__(name: str) -> object:
    # Lazy: the supervisor's and the zygote's programs import this package and must stay small.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
