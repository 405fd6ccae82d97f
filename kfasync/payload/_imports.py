"""Which modules source code imports, and which of them lie beside it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

__all__ = ["imports_of_source", "local_closure"]

_FILES_LIMIT = 1000  # modules; a directory that holds more is not one program


def imports_of_source(source: bytes) -> frozenset[str]:
    """Top-level names of the modules that a source imports, wherever in it; none when it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()  # the job will say so, with its own Python's words
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


def local_closure(names: Iterable[str], folders: Sequence[str]) -> tuple[set[str], dict[str, Path]]:
    """Follow imports through the modules that lie in these folders.

    Returns:
        All top-level names that were met, and the file or package directory of each local one.
    """
    met: set[str] = set()
    local: dict[str, Path] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in met:
            continue
        met.add(name)
        found = _find(name, folders)
        if found is not None and len(local) < _FILES_LIMIT:
            local[name] = found
            for file in _sources(found):
                queue.extend(_imports_of_file(file, os.stat(file).st_mtime_ns))
    return met, local


def _find(name: str, folders: Sequence[str]) -> Path | None:
    for folder in folders:
        package, module = os.path.join(folder, name), os.path.join(folder, name + ".py")
        if os.path.isfile(os.path.join(package, "__init__.py")):
            return Path(package)
        if os.path.isfile(module):
            return Path(module)
    return None


def _sources(found: Path) -> Iterator[str]:
    if found.is_file():
        yield str(found)
        return
    for count, file in enumerate(sorted(found.rglob("*.py"))):
        if count == _FILES_LIMIT:
            return
        yield str(file)


@lru_cache(maxsize=1024)
def _imports_of_file(file: str, mtime_ns: int) -> frozenset[str]:
    return imports_of_source(Path(file).read_bytes())
