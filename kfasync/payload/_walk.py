"""A walk over a function and all that a pickle of it would hold.

One pass finds three things: a digest that is the same in every process (a pickle's bytes are not: they depend on which
strings are interned, on the order of sets, and on identifiers that cloudpickle draws), the modules that the code
mentions, and the modules whose functions must travel by value because the rank could not import them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kfasync.payload._path import is_installed
from kfasync.payload._reach import globals_used, imported, imports_reached

__all__ = ["NotDescribable", "Walk"]

_BUDGET = 20_000  # objects; a walk costs about 1 µs each, and larger data is hashed as its pickle instead
_PLAIN = (type(None), bool, int, float, complex, type(...), type(NotImplemented))
_CLASS_NOISE = frozenset(
    ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__", "__annotate__",
     "__annotate_func__", "__annotations_cache__", "__annotations__", "_abc_impl", "__abstractmethods__",
     "__slotnames__")
)  # fmt: skip


class NotDescribable(Exception):
    """The objects are too many; the pickle's own bytes must serve."""


class Walk:
    """Visits objects; `digest`, `imports` and `by_value` then tell what was met."""

    def __init__(self, folders: Iterable[str]) -> None:
        self.imports: set[str] = set()
        self.by_value: set[str] = set()
        self._folders = tuple(folders)
        self._hash = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # holds the objects too, so that no id is used twice
        self._mentioned: set[str] = set()
        self._left = _BUDGET

    @property
    def digest(self) -> str:
        """Digest of everything visited so far."""
        return self._hash.hexdigest()

    def visit(self, value: Any) -> None:
        """Take in one object and what it refers to.

        Raises:
            NotDescribable: See there.
            Exception: Whatever an object's own pickling raises.
        """
        self._visit(value)

    def _put(self, tag: str, data: bytes = b"") -> None:
        self._hash.update(f"{tag}:{len(data)}:".encode())
        self._hash.update(data)

    def _visit(self, value: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise NotDescribable
        kind = type(value)
        if kind is str:
            self._put("s", value.encode("utf-8", "surrogatepass"))
        elif kind is bytes:
            self._put("b", value)
        elif kind in _PLAIN:
            self._put(kind.__name__, repr(value).encode())
        elif id(value) in self._seen:
            self._put("again", str(self._seen[id(value)][0]).encode())
        else:
            self._seen[id(value)] = (self._left, value)
            visit = _VISITORS.get(kind) or (Walk._type if isinstance(value, type) else Walk._object)
            visit(self, value)

    def _sequence(self, value: Any) -> None:
        self._put(type(value).__name__, str(len(value)).encode())
        for item in value:
            self._visit(item)
        if isinstance(value, tuple):
            del self._seen[id(value)]  # equal tuples may or may not be one object; only mutable ones have an identity

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self._put("dict", str(len(value)).encode())
        for key, item in value.items():
            self._visit(key)
            self._visit(item)

    def _set(self, value: Any) -> None:
        self._put("set", str(len(value)).encode())
        outer, parts = self._hash, []
        for item in value:
            self._hash = hashlib.sha256()
            self._visit(item)
            parts.append(self._hash.digest())
        self._hash = outer
        self._put("items", b"".join(sorted(parts)))

    def _code(self, code: types.CodeType) -> None:
        self._put("code", code.co_code)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._put("shape", repr((counts, names, code.co_name)).encode())
        for constant in code.co_consts:
            self._visit(constant)
        self.imports.update(imported(code))

    def _function(self, func: types.FunctionType) -> None:
        if self._by_reference(func):
            return
        self._put("function", func.__qualname__.encode())
        self._visit(func.__code__)
        for part in (func.__defaults__, func.__kwdefaults__, func.__dict__ or None):
            self._visit(part)
        for cell in func.__closure__ or ():
            self._cell(cell)
        for name in globals_used(func):
            self._put("global", name.encode())
            self._visit(func.__globals__[name])
        package = func.__globals__.get("__package__")
        if package:
            self.imports.add(package.partition(".")[0])

    def _cell(self, cell: types.CellType) -> None:
        try:
            content = cell.cell_contents
        except ValueError:
            self._put("empty cell")
        else:
            self._visit(content)

    def _type(self, cls: type) -> None:
        if self._by_reference(cls):
            return
        self._put("class", cls.__qualname__.encode())
        self._visit(cls.__bases__)
        self._visit({key: value for key, value in vars(cls).items() if key not in _CLASS_NOISE and not _is_slot(value)})

    def _builtin(self, value: Any) -> None:
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self._put("bound", value.__name__.encode())
            self._visit(owner)
        elif not self._by_reference(value):
            raise TypeError(value)

    def _module(self, module: types.ModuleType) -> None:
        self._put("module", module.__name__.encode())
        self._mention(module.__name__)

    def _parts(self, value: Any) -> None:
        self._put(type(value).__name__)
        for name in _PARTS[type(value)]:
            self._visit(getattr(value, name))

    def _object(self, value: Any) -> None:
        """Anything else, by the recipe that it gives a pickler."""
        recipe = value.__reduce_ex__(4)
        if isinstance(recipe, str):
            self._put("name", recipe.encode())
            self._mention(getattr(value, "__module__", None) or "")
            return
        self._put("object")
        for part in recipe:
            self._visit(list(part) if isinstance(part, Iterator) else part)

    def _by_reference(self, value: Any) -> bool:
        """Whether a pickle would only name it; if so, that is all there is to it here."""
        module_name, name = getattr(value, "__module__", None), value.__qualname__
        module = sys.modules.get(module_name) if module_name else None
        if module is None or module_name == "__main__" or "<locals>" in name or _lookup(module, name) is not value:
            return False
        if not self._importable(module):
            self.by_value.add(module.__name__)
            return False
        self._put("reference", f"{module_name}:{name}".encode())
        self._mention(module.__name__)
        if isinstance(value, types.FunctionType | type):
            self.imports |= imports_reached(value, self._is_local)
        return True

    def _importable(self, module: types.ModuleType) -> bool:
        """Whether a rank with the caller's directories would find this very module."""
        file = getattr(module, "__file__", None)
        if file is None:
            return module.__name__ in sys.builtin_module_names or module.__spec__ is not None
        stem = os.path.join(*module.__name__.split("."))
        places = (os.path.join(stem, "__init__.py"), stem + ".py")
        path = os.path.abspath(file)
        for place in places:
            if path.endswith(os.sep + place):
                root = path[: -len(place) - 1]
                if root in self._folders or root in sys.path:
                    return True
        return _found(module.__name__, path)

    def _mention(self, module_name: str) -> None:
        if module_name in self._mentioned:
            return
        self._mentioned.add(module_name)
        top = module_name.partition(".")[0]
        if not top or top in ("builtins", "__main__"):
            return
        self.imports.add(top)
        module = sys.modules.get(module_name)
        file = getattr(module, "__file__", None)
        if module is None or file is None or not self._is_local(file):
            return
        # A module of the caller's own: what it imported when it was loaded, the rank imports as well.
        for other in _origins(module_name, len(vars(module))):
            self._mention(other)

    def _is_local(self, file: str) -> bool:
        return file.startswith(self._folders) and not is_installed(os.path.dirname(file))


@functools.lru_cache(maxsize=4096)
def _origins(module_name: str, size: int) -> frozenset[str]:
    """Names of the modules that a module's globals come from.

    Remembered, for a program of a hundred modules would pay milliseconds at every submit. ``size``, how many globals it
    has, tells a module that has imported more since.
    """
    names = set()
    for value in list(vars(sys.modules[module_name]).values()):
        if isinstance(value, types.ModuleType):
            names.add(value.__name__)
        elif isinstance(value, type | types.FunctionType):
            names.add(value.__module__ or "")
    return frozenset(names)


def _is_slot(value: Any) -> bool:
    return isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)


def _lookup(module: types.ModuleType, qualname: str) -> Any:
    value: Any = module
    for part in qualname.split("."):
        value = getattr(value, part, None)
    return value


def _found(name: str, file: str) -> bool:
    """Whether the import system, asked anew, finds this file for this name."""
    parent, _, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    for finder in sys.meta_path:
        find: Callable[..., importlib.machinery.ModuleSpec | None] | None = getattr(finder, "find_spec", None)
        spec = find(name, path) if find else None
        if spec is not None:
            return spec.origin is not None and os.path.abspath(spec.origin) == file
    return False


_PARTS: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__func__", "__self__"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
}
_VISITORS: dict[type, Callable[[Walk, Any], None]] = {
    list: Walk._sequence, tuple: Walk._sequence, dict: Walk._mapping, set: Walk._set, frozenset: Walk._set,
    types.CodeType: Walk._code, types.FunctionType: Walk._function, types.BuiltinFunctionType: Walk._builtin,
    types.ModuleType: Walk._module, types.MappingProxyType: Walk._mapping, **dict.fromkeys(_PARTS, Walk._parts),
}  # fmt: skip
