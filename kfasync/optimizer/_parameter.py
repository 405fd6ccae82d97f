"""What every hyperparameter's spec has in common, and the one of choices. Pure.

A spec holds what the user wrote. `SearchSpace` checks it, for only there its name is known, and every message names it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

from kfasync.errors import InvalidSpecError

__all__ = ["CategoricalSearchSpace", "Condition", "ParameterSpec", "Value", "plain", "same"]

Value: TypeAlias = bool | int | float | str | None


def plain(value: Any, what: str) -> Value:
    """The value as one of None, bool, int, float and str; subclasses and numpy's scalars lose their class.

    Raises:
        InvalidSpecError: It is anything else: JSON couldn't carry it to the job.
    """
    scalar = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    match scalar:
        case None | bool():
            return scalar
        case str():
            return str.__str__(scalar)
        case numbers.Integral():
            return int(scalar)
        case float():
            number = float(scalar)
            # One object for every nan: tuples that hold it compare equal.
            return math.nan if math.isnan(number) else number
    raise InvalidSpecError(f"{what}: {value!r} is a {type(value).__name__}; use None, bool, int, float or str")


def same(one: Value, other: Value) -> bool:
    """Whether two values are the same for a user: 1 and 1.0 are, 1 and True are not, nan is itself."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _listed(values: Any, what: str) -> tuple[Value, ...]:
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise InvalidSpecError(f"{what} must be a list of values in an order, not {values!r}")
    return tuple(plain(value, what) for value in values)


@dataclass(frozen=True)
class Condition:
    """The parameter exists only when another one exists and has one of the values.

    Attributes:
        parameter: Name of the other.
        values: The values.
    """

    parameter: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class ParameterSpec:
    """What all specs share: the conditions, all of which must hold. Use `Search` to make one."""

    type: ClassVar[str]
    conditions: tuple[Condition, ...] = field(default=(), kw_only=True)

    def when(self, parameter: str, values: Any) -> Self:
        """The same spec for a parameter that exists only when another has a value, or one of several.

        Args:
            parameter: Name of the other: one of choices, or of integer or quantised values.
            values: A value, or a list, tuple, range or set of them.

        Example:
            >>> CategoricalSearchSpace((1, 2)).when("optimizer", ["sgd", "rmsprop"]).conditions
            (Condition(parameter='optimizer', values=('sgd', 'rmsprop')),)
        """
        many = tuple(values) if isinstance(values, list | tuple | range | set | frozenset) else (values,)
        return dataclasses.replace(self, conditions=(*self.conditions, Condition(parameter, many)))

    def checked(self, name: str) -> Self:
        """The same with its numbers in their types.

        Raises:
            InvalidSpecError: It describes nothing that can be searched; the message names the parameter.
        """
        raise NotImplementedError

    def accept(self, value: Any, name: str) -> Value:
        """A value that somebody gave, in its type.

        Raises:
            InvalidSpecError: The parameter can't take it.
        """
        raise NotImplementedError

    def grid(self) -> Iterator[Value] | None:
        """All values in ascending (choices: in the given) order; None for a continuous range."""
        return None


@dataclass(frozen=True)
class CategoricalSearchSpace(ParameterSpec):
    """One of the choices, in its own type."""

    type: ClassVar[str] = "choice"
    choices: tuple[Value, ...]

    def checked(self, name: str) -> Self:
        choices = _listed(self.choices, f"parameter {name!r}: choices")
        if not choices:
            raise InvalidSpecError(f"parameter {name!r} has no choices")
        for index, choice in enumerate(choices):
            # True and 1 too: what is one key of a dict can't be told apart in plots and tables.
            if any(choice == earlier or choice is earlier for earlier in choices[:index]):
                raise InvalidSpecError(f"parameter {name!r} has the choice {choice!r} more than once")
        return dataclasses.replace(self, choices=choices)

    def index(self, value: Value) -> int | None:
        """Position of a value among the choices, None where it isn't one."""
        return next((index for index, choice in enumerate(self.choices) if same(choice, value)), None)

    def accept(self, value: Any, name: str) -> Value:
        index = self.index(plain(value, f"parameter {name!r}"))
        if index is None:
            raise InvalidSpecError(f"parameter {name!r} can't be {value!r}: its choices are {list(self.choices)}")
        return self.choices[index]

    def grid(self) -> Iterator[Value]:
        return iter(self.choices)
