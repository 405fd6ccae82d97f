"""Names that a package loads on first use, so that importing its door costs next to nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["attach", "homes"]


def attach(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__``.

    Args:
        package: The package's ``__name__``.
        homes: Each public name and the module that defines it.

    Returns:
        The two functions. A type checker doesn't see them: the package imports the same names under TYPE_CHECKING.

    Example:
        >>> getattribute, _ = attach("json", {"JSONDecoder": "json.decoder"})
        >>> getattribute("JSONDecoder").__name__
        'JSONDecoder'
    """

    def getattribute(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return getattribute, directory


def homes(*groups: tuple[str, str | tuple[str, ...]]) -> dict[str, str]:
    """The table for `attach`, from pairs of a module and its names (a tuple, or a text with spaces between them)."""
    return {name: module for module, names in groups for name in (names.split() if isinstance(names, str) else names)}
