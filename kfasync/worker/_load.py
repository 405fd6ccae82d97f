"""From a payload to something that can be called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["Incompatible", "load"]


class Incompatible(Exception):
    """The function was pickled by a Python whose bytecode this one can't run."""


def load(ctx: dict[str, Any], main: ModuleType) -> Callable[[], Any]:
    """Read the payload of a context.

    Raises:
        Incompatible: Its pickle is of another Python and there is no source instead.
        Exception: Whatever unpickling or compiling it raises.
    """
    if ctx["kind"] == "script":
        return _script(ctx, main)
    if tuple(ctx.get("python") or sys.version_info[:2]) == sys.version_info[:2]:
        return _pickle(ctx, main)
    if not ctx.get("source"):
        raise Incompatible("bytecode differs between the two, and the function's source can't run by itself")
    return _source(ctx, main)


def _data(ctx: dict[str, Any]) -> bytes:
    if "data" in ctx:
        return bytes(ctx["data"])
    with open(ctx["payload"], "rb") as file:
        return file.read()


def _script(ctx: dict[str, Any], main: ModuleType) -> Callable[[], Any]:
    from importlib.machinery import SourceFileLoader

    filename = ctx["filename"]
    code = compile(_data(ctx), filename, "exec", dont_inherit=True)
    # What `python script.py` sets.
    main.__dict__.update(
        __file__=filename, __cached__=None, __doc__=None, __package__=None, __spec__=None,
        __loader__=SourceFileLoader("__main__", filename), __annotations__={},
    )  # fmt: skip
    return lambda: exec(code, main.__dict__)


def _pickle(ctx: dict[str, Any], main: ModuleType) -> Callable[[], Any]:
    import pickle

    func, kwargs = pickle.loads(_data(ctx))
    scope = getattr(func, "__globals__", {})
    if scope.get("__name__") == "__main__":
        # So that what the job pickles by name (torch.save, a DataLoader's workers) is found in __main__.
        main.__dict__.update(scope)
    return lambda: func(**kwargs)


def _source(ctx: dict[str, Any], main: ModuleType) -> Callable[[], Any]:
    import pickle

    exec(compile(ctx["source"], f"<source of {ctx['name']}>", "exec", dont_inherit=True), main.__dict__)
    kwargs = pickle.loads(ctx["arguments"])
    return lambda: main.__dict__[ctx["name"]](**kwargs)
