"""A function and its arguments, pickled."""

from __future__ import annotations

import functools
import inspect
import io
import sys
import threading
import types
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import cloudpickle

from kfasync.errors import InvalidSpecError
from kfasync.payload._path import caller_path
from kfasync.payload._payload import Payload, check_not_spawning, digest_of, remember
from kfasync.payload._reach import globals_used
from kfasync.payload._walk import Walk

__all__ = ["from_function"]

_DEPTH = 5  # functions; how far a message follows one variable into the next
_registry = threading.Lock()  # cloudpickle's list of modules by value belongs to the process


def from_function(func: Callable[..., Any], kwargs: Mapping[str, Any] | None = None) -> Payload:
    """Make a payload of a callable and its keyword arguments.

    Args:
        func: Any callable: a function, lambda, closure, method, partial, instance with ``__call__``, or ``async def``.
        kwargs: Its arguments by name.

    Raises:
        InvalidSpecError: It can't be called with these arguments, or something in it can't be pickled; the message
            names the argument or variable.

    Example:
        >>> from_function(lambda epochs: epochs + 1, {"epochs": 2}).kind
        'function'
    """
    check_not_spawning()
    name = _name(func)
    arguments = _check_call(func, kwargs, name)
    folders = caller_path()
    walk = Walk(folders)
    _, problem = _attempt(walk.visit, (func, arguments))
    data = _pickle(func, arguments, name, walk.by_value)
    content = data if problem is not None else walk.digest.encode()
    payload = Payload(
        kind="function",
        name=name,
        data=data,
        path=folders,
        imports=frozenset(walk.imports),
        digest=digest_of(b"function", name.encode(), content),
    )
    return remember(payload, func, arguments)


def _name(func: Callable[..., Any]) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    return str(getattr(func, "__qualname__", None) or type(func).__qualname__)


def _check_call(func: object, kwargs: object, name: str) -> dict[str, Any]:
    if not callable(func):
        raise InvalidSpecError(f"the training function must be callable, not {func!r}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InvalidSpecError(f"arguments of {name}() are a dict by name, such as {{'lr': 0.1}}, not {kwargs!r:.200}")
    arguments = dict(kwargs or {})
    for key in arguments:
        if not isinstance(key, str):
            raise InvalidSpecError(f"arguments of {name}() have the name {key!r}; names are strings")
    try:
        # Not through functools.wraps: what is called is the wrapper, and it may supply arguments of its own.
        signature = inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):
        return arguments  # some builtins have none
    try:
        signature.bind(**arguments)
    except TypeError as e:
        raise InvalidSpecError(f"{name}{signature} can't be called with the given arguments by name: {e}") from e
    return arguments


def _pickle(func: Callable[..., Any], arguments: dict[str, Any], name: str, by_value: set[str]) -> bytes:
    with _registry:
        added = []
        for module_name in sorted(by_value - set(cloudpickle.list_registry_pickle_by_value())):
            cloudpickle.register_pickle_by_value(sys.modules[module_name])
            added.append(sys.modules[module_name])
        try:
            data, error = _attempt(_dumps, (func, arguments))
            if error is not None:
                raise InvalidSpecError(_explain(func, arguments, name, error)) from error
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)
    return bytes(data)


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    make, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    # The constructor's order since Python 3.11: six numbers, bytecode, constants, names, variables, file name.
    return make, (*arguments[:10], code.co_filename, *arguments[11:])


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle 3.1.3 calls every file ``<dynamic-code>``; a traceback has to say where the code is."""

    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def _dumps(value: object) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def _attempt(dump: Callable[[Any], Any], value: object) -> tuple[Any, Exception | None]:
    try:
        return dump(value), None
    except Exception as e:  # an object's own __reduce__ and __getstate__ may raise whatever they like
        return None, e


def _explain(func: Callable[..., Any], arguments: dict[str, Any], name: str, error: Exception) -> str:
    for key, value in arguments.items():
        _, problem = _attempt(cloudpickle.dumps, value)
        if problem is not None:
            return f"the argument {key!r} of {name}() can't be sent to the job: {_describe(value, problem)}"
    for what, value, problem in _culprits(func, _DEPTH):
        return (
            f"{name}() can't be sent to the job because of {what}: {_describe(value, problem)}. "
            "Create it inside the function, or pass what it is made from"
        )
    return f"{name}() can't be sent to the job: {type(error).__name__}: {error}"


def _culprits(func: Any, depth: int) -> Iterator[tuple[str, Any, Exception]]:
    """What a function drags along and can't be pickled: innermost first, if a function that it uses holds it."""
    for what, value in _dependencies(func):
        _, problem = _attempt(cloudpickle.dumps, value)
        if problem is None:
            continue
        if depth and isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            yield from _culprits(value, depth - 1)
        yield what, value, problem


def _dependencies(func: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(func, functools.partial):
        yield "its partial function", func.func
        yield from ((f"its partial argument {key!r}", value) for key, value in func.keywords.items())
        yield from ((f"its partial argument {index}", value) for index, value in enumerate(func.args))
    elif isinstance(func, types.MethodType):
        yield "the object it is a method of", func.__self__
        yield "its function", func.__func__
    elif isinstance(func, types.FunctionType):
        for variable, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=False):
            if cell != _EMPTY:  # a name that is assigned later
                yield f"the variable {variable!r} of the enclosing scope", cell.cell_contents
        for variable in globals_used(func):
            yield f"the global variable {variable!r}", func.__globals__[variable]
        defaults = inspect.signature(func, follow_wrapped=False).parameters.values()
        yield from ((f"the default of {p.name!r}", p.default) for p in defaults if p.default is not p.empty)


_EMPTY = types.CellType()


def _describe(value: object, problem: Exception) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}: {problem}"
