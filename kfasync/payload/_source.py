"""Source of a function that can run by itself, for a Python that can't read the pickle."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
import types
from typing import Any

from kfasync.payload._reach import globals_used

__all__ = ["standalone_source"]


def standalone_source(func: Any) -> str | None:
    """The function's source below the imports it needs, or None when that would not be the same function.

    It is the same where the function is a plain ``def`` without closure and decorators, its defaults are literals, and
    the only globals it uses are modules and builtins.
    """
    if not isinstance(func, types.FunctionType) or func.__closure__ or func.__dict__:
        return None
    header = ["from __future__ import annotations", ""]
    for name in globals_used(func):
        value = func.__globals__[name]
        if isinstance(value, types.ModuleType):
            header.append(f"import importlib; {name} = importlib.import_module({value.__name__!r})")
        elif value is not func and getattr(builtins, name, None) is not value:
            return None
    try:
        text = textwrap.dedent(inspect.getsource(func))
        node = ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None  # typed into a shell, a lambda in the middle of an expression, …
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name != func.__name__:
        return None
    defaults = [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
    if node.decorator_list or not all(_is_literal(default) for default in defaults):
        return None
    return "\n".join((*header, "", text))


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return False
    return True
