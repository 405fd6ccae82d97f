"""The whole search space: its checks, its order, its grid and its JSON form. Pure."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from kfasync.errors import InvalidSpecError
from kfasync.optimizer._parameter import CategoricalSearchSpace, Condition, ParameterSpec, Value
from kfasync.optimizer._ranges import (
    ContinuousSearchSpace,
    IntegerSearchSpace,
    LogNormalSearchSpace,
    NormalSearchSpace,
    QuantizedSearchSpace,
)

__all__ = ["SearchSpace"]

_TYPES: Mapping[str, type[ParameterSpec]] = {
    spec.type: spec
    for spec in (
        CategoricalSearchSpace,
        ContinuousSearchSpace,
        IntegerSearchSpace,
        LogNormalSearchSpace,
        NormalSearchSpace,
        QuantizedSearchSpace,
    )
}
#: A grid is a list in memory and every point a training job.
_LARGEST_GRID = 1_000_000


class SearchSpace:
    """A checked search space.

    Attributes:
        parameters: The specs by name, each behind those it depends on, otherwise in the order in which they were given.

    Args:
        parameters: Names and what `Search` returned for them.
        fixed: Names of the arguments that every trial gets as they are (a mapping of arguments will do).

    Raises:
        InvalidSpecError: The space can't be searched; the message names the parameter and says what to change.

    Example:
        >>> from kfasync.optimizer import Search
        >>> space = SearchSpace({"momentum": Search.uniform(0, 1).when("kind", "sgd"), "kind": Search.choice(["sgd"])})
        >>> list(space.parameters)
        ['kind', 'momentum']
    """

    def __init__(self, parameters: Mapping[str, ParameterSpec], fixed: Collection[str] = ()) -> None:
        if not isinstance(parameters, Mapping) or not parameters:
            raise InvalidSpecError(f"the search space must map at least one name to a Search.…, not {parameters!r}")
        checked = {name: _checked(name, spec) for name, spec in parameters.items()}
        for name in checked:
            if name in fixed:
                raise InvalidSpecError(f"parameter {name!r} is searched and a fixed argument too: drop one of them")
        checked = {name: _conditioned(name, spec, checked) for name, spec in checked.items()}
        self.parameters: Mapping[str, ParameterSpec] = MappingProxyType(_sorted(checked))
        self.fixed = frozenset(fixed)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SearchSpace):
            return NotImplemented
        return list(self.parameters.items()) == list(other.parameters.items())

    def __hash__(self) -> int:
        return hash(tuple(self.parameters))

    def __repr__(self) -> str:
        return f"SearchSpace({dict(self.parameters)!r})"

    @property
    def conditional(self) -> bool:
        """Whether a parameter's existence depends on another."""
        return any(spec.conditions for spec in self.parameters.values())

    def active(self, name: str, given: Mapping[str, Value]) -> bool:
        """Whether the parameter exists beside these values of those it depends on."""
        return all(
            condition.parameter in given and given[condition.parameter] in condition.values
            for condition in self.parameters[name].conditions
        )

    def grid(self) -> list[dict[str, Value]]:
        """Every assignment, once.

        The order is that of nested loops over `parameters`: the last one varies fastest; numbers ascend, choices come
        as they were given. A parameter that doesn't exist beside the others' values is left out.

        Raises:
            InvalidSpecError: A parameter has no steps, or there are more than a million points.

        Example:
            >>> from kfasync.optimizer import Search
            >>> SearchSpace({"a": Search.int(1, 2), "b": Search.choice("x y".split()).when("a", 2)}).grid()
            [{'a': 1}, {'a': 2, 'b': 'x'}, {'a': 2, 'b': 'y'}]
        """
        for name, spec in self.parameters.items():
            if spec.grid() is None:
                raise InvalidSpecError(
                    f"parameter {name!r} is continuous and has no grid: use Search.quniform, Search.int or "
                    "Search.choice, or another algorithm"
                )
        points = list(itertools.islice(self._walk(list(self.parameters), {}), _LARGEST_GRID + 1))
        if len(points) > _LARGEST_GRID:
            raise InvalidSpecError(f"the grid of {list(self.parameters)} has more than {_LARGEST_GRID:,} points")
        return points

    def _walk(self, names: list[str], given: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if not names:
            yield given
        elif not self.active(names[0], given):
            yield from self._walk(names[1:], given)
        else:
            for value in self.parameters[names[0]].grid() or ():
                yield from self._walk(names[1:], {**given, names[0]: value})

    def complete(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """A point that the user wants tried, checked, in the types of the space; it may leave parameters out.

        What a given conditional parameter needs is added where only one value will do.

        Raises:
            InvalidSpecError: A name is unknown, a value impossible, or a parameter can't exist beside the others.

        Example:
            >>> from kfasync.optimizer import Search
            >>> space = SearchSpace({"lr": Search.loguniform(0.1, 10), "size": Search.int(1, 9)})
            >>> space.complete({"lr": 1})
            {'lr': 1.0}
        """
        if not isinstance(given, Mapping):
            raise InvalidSpecError(f"a point maps names of parameters to values; this is {given!r}")
        for name in given:
            self._known(name)
        point = {name: self.parameters[name].accept(value, name) for name, value in given.items()}
        for name in reversed(list(self.parameters)):
            if name in point:
                for condition in self.parameters[name].conditions:
                    _imply(name, condition, point)
        return {name: point[name] for name in self.parameters if name in point}

    def _known(self, name: str) -> ParameterSpec:
        if name not in self.parameters:
            raise InvalidSpecError(f"parameter {name!r} is not in the search space, which has {list(self.parameters)}")
        return self.parameters[name]

    def check_function(self, function: Callable[..., Any] | inspect.Signature) -> None:
        """Raise where a trial's arguments can't be those of the function.

        Args:
            function: The training function, or its signature. One without a signature passes.

        Raises:
            InvalidSpecError: It lacks a parameter, or needs one that nothing gives.
        """
        try:
            signature = function if isinstance(function, inspect.Signature) else inspect.signature(function)
        except (TypeError, ValueError):
            return
        takes = signature.parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        by_name = {n: p for n, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        for name, spec in self.parameters.items():
            if name not in by_name and not anything:
                raise InvalidSpecError(
                    f"parameter {name!r} is searched, but the function takes {list(by_name)} by name"
                )
            if spec.conditions and name in by_name and by_name[name].default is inspect.Parameter.empty:
                raise InvalidSpecError(
                    f"parameter {name!r} is conditional: give it a default in the function, for the trials without it"
                )
        for name, parameter in by_name.items():
            if parameter.default is parameter.empty and name not in self.parameters and name not in self.fixed:
                raise InvalidSpecError(
                    f"the function's parameter {name!r} has no default and is neither searched nor fixed"
                )

    def dump(self, point: Mapping[str, Value]) -> dict[str, Any]:
        """An assignment as JSON values, for `load`."""
        return {name: _dumped(value) for name, value in point.items()}

    def load(self, data: Mapping[str, Any]) -> dict[str, Value]:
        """What `dump` was given."""
        return {name: _loaded(value) for name, value in data.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in a list: whoever sorts the keys of a JSON object changes no order."""
        return {"parameters": [_spec_to_dict(name, spec) for name, spec in self.parameters.items()]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], fixed: Collection[str] = ()) -> SearchSpace:
        """The space that `to_dict` wrote; unknown keys (of a newer version) are ignored.

        Raises:
            InvalidSpecError: A parameter is of a type that this version doesn't know.
        """
        return cls(dict(_spec_from_dict(item) for item in data["parameters"]), fixed)


def _checked(name: Any, spec: Any) -> ParameterSpec:
    if not isinstance(name, str) or not name:
        raise InvalidSpecError(f"the search space has the name {name!r}; names are strings")
    if not isinstance(spec, ParameterSpec) or type(spec) is ParameterSpec:
        raise InvalidSpecError(f"parameter {name!r}: {spec!r} is nothing that Search.… returned")
    return spec.checked(name)


def _conditioned(name: str, spec: ParameterSpec, others: Mapping[str, ParameterSpec]) -> ParameterSpec:
    """The spec with the values of its conditions in the types of the parameters they are about."""
    conditions = []
    for condition in spec.conditions:
        other = others.get(condition.parameter)
        if other is None:
            raise InvalidSpecError(f"parameter {name!r} depends on {condition.parameter!r}, which is not searched")
        if not condition.values:
            raise InvalidSpecError(f"parameter {name!r}: .when({condition.parameter!r}, …) lists no values")
        if other.grid() is None:
            raise InvalidSpecError(
                f"parameter {name!r} depends on {condition.parameter!r}, which is continuous: use choices or steps"
            )
        try:
            values = tuple(other.accept(value, condition.parameter) for value in condition.values)
        except InvalidSpecError as error:
            raise InvalidSpecError(f"the condition of parameter {name!r} never holds: {error}") from error
        conditions.append(Condition(condition.parameter, values))
    return dataclasses.replace(spec, conditions=tuple(conditions))


def _sorted(specs: Mapping[str, ParameterSpec]) -> dict[str, ParameterSpec]:
    """The same, each behind those it depends on."""
    placed: dict[str, ParameterSpec] = {}
    waiting = dict(specs)
    while waiting:
        ready = (name for name, spec in waiting.items() if all(c.parameter in placed for c in spec.conditions))
        name = next(ready, None)
        if name is None:
            raise InvalidSpecError(f"the parameters {sorted(waiting)} depend on each other in a circle")
        placed[name] = waiting.pop(name)
    return placed


def _imply(name: str, condition: Condition, point: dict[str, Value]) -> None:
    other = condition.parameter
    if other not in point and len(condition.values) == 1:
        point[other] = condition.values[0]
    elif other not in point:
        raise InvalidSpecError(
            f"parameter {name!r} exists only with {other!r} in {list(condition.values)}: give that too"
        )
    elif point[other] not in condition.values:
        raise InvalidSpecError(f"parameter {name!r} does not exist with {other!r} = {point[other]!r}")


def _dumped(value: Any) -> Any:
    match value:
        # In an object of its own, for "nan" and "inf" may be choices too.
        case float() if not math.isfinite(value):
            return {"float": repr(value)}
        case str():
            return str(value)
        case tuple():
            return [_dumped(item) for item in value]
    return value


def _loaded(value: Any) -> Any:
    match value:
        case {"float": str(text)}:
            return math.nan if text == "nan" else float(text)
        case list():
            return tuple(_loaded(item) for item in value)
    return value


def _spec_to_dict(name: str, spec: ParameterSpec) -> dict[str, Any]:
    fields = {f.name: _dumped(getattr(spec, f.name)) for f in dataclasses.fields(spec) if f.name != "conditions"}
    when = [[condition.parameter, _dumped(condition.values)] for condition in spec.conditions]
    return {"name": name, "type": spec.type, **fields} | ({"when": when} if when else {})


def _spec_from_dict(data: Mapping[str, Any]) -> tuple[str, ParameterSpec]:
    cls = _TYPES.get(data["type"])
    if cls is None:
        raise InvalidSpecError(f"parameter {data['name']!r} is of the unknown type {data['type']!r}")
    known = {f.name for f in dataclasses.fields(cls)}
    fields = {key: _loaded(value) for key, value in data.items() if key in known}
    conditions = tuple(Condition(parameter, _loaded(values)) for parameter, values in data.get("when", ()))
    return data["name"], cls(**fields, conditions=conditions)
