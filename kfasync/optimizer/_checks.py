"""Numbers that users give, by one rule: a bool is none, numpy's are some, and the message names the field. Pure."""

from __future__ import annotations

import math
import numbers
from typing import Any

from kfasync.errors import InvalidSpecError

__all__ = ["LARGEST", "flag", "real", "whole"]

#: Optuna and JSON readers carry integers as doubles; beyond this two of them become one.
LARGEST = 2**53


def whole(value: Any, what: str, *, least: int = -LARGEST, most: int = LARGEST) -> int:
    """The value as an int.

    Args:
        value: What the user gave.
        what: The field's name, for the message.
        least: The smallest value allowed.
        most: The largest value allowed.

    Raises:
        InvalidSpecError: It is no integer, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidSpecError(f"{what} must be an integer, not {value!r}")
    number = int(value)
    if not least <= number <= most:
        bounds = f"{least} or more" if most == LARGEST and number < least else f"from {least} to {most}"
        raise InvalidSpecError(f"{what} must be {bounds}, not {value!r}")
    return number


def real(value: Any, what: str, *, least: float = -math.inf, most: float = math.inf) -> float:
    """The value as a finite float; arguments and errors as for `whole`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidSpecError(f"{what} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidSpecError(f"{what} must be finite, not {value!r}")
    if not least <= number <= most:
        bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise InvalidSpecError(f"{what} must be {bounds}, not {value!r}")
    return number


def flag(value: Any, what: str) -> bool:
    """The value if it is a bool."""
    if not isinstance(value, bool):
        raise InvalidSpecError(f"{what} must be True or False, not {value!r}")
    return value
