"""The forms in which a training function may be written. Light, because ranks import this module."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["FUNCTIONS", "return_a_lock", "return_a_lock_but_on_rank_0"]

_SCALE = 10


def _scaled(value: int) -> int:
    return value * _SCALE


def _twice(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def twice(*args: Any, **kwargs: Any) -> int:
        return 2 * function(*args, **kwargs)

    return twice


@_twice
def _decorated(value: int) -> int:
    return _scaled(value)


async def _awaited(value: int) -> int:
    await asyncio.sleep(0)
    return _scaled(value)


class _Callable:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, value: int) -> int:
        return value + self.offset

    def method(self, value: int) -> int:
        return value - self.offset


def _add_offset(offset: int, value: int) -> int:
    return offset + value


def _closure(offset: int) -> Callable[[int], int]:
    def nested(value: int) -> int:
        return value + offset

    return nested


def return_a_lock() -> object:
    return threading.Lock()


def return_a_lock_but_on_rank_0() -> object:
    return "zero" if os.environ["RANK"] == "0" else threading.Lock()


#: Ways to write a training function, each with what it makes of 4.
FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "closure": (_closure(3), 7),
    "lambda": (lambda value: value + 1, 5),
    "decorated": (_decorated, 80),
    "async": (_awaited, 40),
    "module-global": (_scaled, 40),
    "partial": (functools.partial(_add_offset, 5), 9),
    "callable-object": (_Callable(2), 6),
    "bound-method": (_Callable(2).method, 2),
}
