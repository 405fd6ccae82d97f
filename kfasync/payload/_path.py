"""Where the caller's own modules are, as against installed ones."""

from __future__ import annotations

import os
import sys

__all__ = ["caller_path", "is_installed"]

_LIBRARY = os.path.dirname(os.__file__)
_SCRIPTS = os.path.dirname(sys.executable)
_PACKAGES = frozenset(("site-packages", "dist-packages"))


def caller_path() -> tuple[str, ...]:
    """The directories of sys.path that are this program's own: neither the standard library nor installed packages."""
    entries = [os.path.abspath(entry) for entry in sys.path if not is_installed(entry)]
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script and not is_installed(os.path.dirname(os.path.abspath(script))):
        entries.append(os.path.dirname(os.path.abspath(script)))
    return tuple(entry for entry in dict.fromkeys(entries) if os.path.isdir(entry))


def is_installed(entry: str) -> bool:
    """Whether a directory belongs to the interpreter or to installed packages."""
    return (
        entry == _SCRIPTS
        or (entry + os.sep).startswith(_LIBRARY + os.sep)
        or not _PACKAGES.isdisjoint(entry.split(os.sep))
    )
