"""What the code of an importable function may import when it runs: a hint for what is worth having loaded ahead.

A pickle only names such a function, so nothing of it is walked over otherwise.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from opcode import opmap
from typing import Any

__all__ = ["globals_used", "imported", "imports_reached"]

_LIMIT = 10_000  # functions and classes; a program with more is not one training function
_IMPORT_NAME, _EXTENDED_ARG = opmap["IMPORT_NAME"], opmap["EXTENDED_ARG"]
_Code = types.FunctionType | type


def imports_reached(start: _Code, is_local: Callable[[str], bool]) -> set[str]:
    """Top-level modules that a function or class imports in its body, or in the body of what it uses.

    Args:
        start: The function or class.
        is_local: Whether a source file is the caller's own; into other code nobody looks.
    """
    found: set[str] = set()
    seen: dict[int, Any] = {}
    queue: list[_Code] = [start]
    while queue and len(seen) < _LIMIT:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, type):
            queue.extend(_methods(item))
        elif is_local(item.__code__.co_filename):
            codes = _codes(item.__code__)
            found.update(*map(_imported_names, codes))
            queue.extend(_used(item, {name for code in codes for name in code.co_names}))
    return found


def _methods(cls: type) -> Iterator[_Code]:
    for value in (*vars(cls).values(), *cls.__bases__):
        value = getattr(value, "__func__", value)
        if isinstance(value, _Code):
            yield value


def _used(func: types.FunctionType, names: Iterable[str]) -> Iterator[_Code]:
    """The functions and classes that a function can name: its globals, members of modules, what a decorator wrapped."""
    for name in names:
        value = func.__globals__.get(name)
        if isinstance(value, _Code):
            yield value
        elif isinstance(value, types.ModuleType):
            members = (vars(value).get(member) for member in names)
            yield from (member for member in members if isinstance(member, _Code))
    for cell in func.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            continue  # a name that is assigned later
        if isinstance(content, _Code):
            yield content


def globals_used(func: types.FunctionType) -> list[str]:
    """Names of the globals that a function's code, and the code nested in it, may use; in a fixed order."""
    names = (name for code in _codes(func.__code__) for name in code.co_names)
    return list(dict.fromkeys(name for name in names if name in func.__globals__))


def _codes(code: types.CodeType) -> list[types.CodeType]:
    """A code and what is nested in it."""
    codes = [code]
    for each in codes:
        codes.extend(constant for constant in each.co_consts if isinstance(constant, types.CodeType))
    return codes


@lru_cache(maxsize=16_384)
def _imported_names(code: types.CodeType) -> frozenset[str]:
    return frozenset(imported(code))


def imported(code: types.CodeType) -> Iterator[str]:
    """Top-level modules that a code imports by itself."""
    extended = 0
    for position in range(0, len(code.co_code), 2):
        op, arg = code.co_code[position], code.co_code[position + 1] | extended
        extended = arg << 8 if op == _EXTENDED_ARG else 0
        if op == _IMPORT_NAME:
            # A relative import names no top-level module; the function's package does.
            yield code.co_names[arg].partition(".")[0]
