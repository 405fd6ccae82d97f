"""A client that dies at a chosen point."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from kfasync.events import Event

__all__ = ["CrashPoint", "Crashes"]

_T = TypeVar("_T")


class CrashPoint(BaseException):
    """The client process is dead from here on. No handler for ordinary errors may catch it."""


class Crashes:
    """Where a fake backend's client dies, as if by ``kill -9``.

    A point is ``"<call>:before"`` or ``"<call>:after"``; the calls are those of the backend (``open``, ``submit``,
    ``cancel``, ``suspend``, ``resume``, ``delete``, ``results``), ``watch`` for each event of the watch, and ``append``
    for each transaction of the journal. Once dead, every further call raises again: nothing that runs while the stack
    unwinds can touch the place or the journal, as nothing runs in a killed process.

    Attributes:
        reached: The points that were passed, in order. A clean run tells what there is to try.
        dead: Whether the client has crashed.

    Example:
        >>> crashes = Crashes()
        >>> crashes.at("submit:after")
        >>> crashes.pass_by("submit:before")
        >>> crashes.pass_by("submit:after")
        Traceback (most recent call last):
        kfasync.testing._crash.CrashPoint: submit:after
    """

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.dead = False
        self._at: tuple[str, int] | None = None
        self._step: int | None = None

    def at(self, point: str, nth: int = 1) -> None:
        """Die when a point is reached for the nth time from the start."""
        self._at = (point, nth)

    def at_step(self, step: int) -> None:
        """Die at the point with this index in `reached` of an equal run."""
        self._step = step

    def pass_by(self, point: str) -> None:
        """Called where the client could die.

        Raises:
            CrashPoint: It does.
        """
        if not self.dead:
            self.reached.append(point)
            due = self._at is not None and self.reached.count(self._at[0]) >= self._at[1] and point == self._at[0]
            self.dead = due or self._step == len(self.reached) - 1
        if self.dead:
            raise CrashPoint(point)

    def around(self, append: Callable[[Sequence[Event]], Awaitable[_T]]) -> Callable[[Sequence[Event]], Awaitable[_T]]:
        """`Journal.append` with a point before and after it."""

        async def appending(events: Sequence[Event]) -> _T:
            self.pass_by("append:before")
            result = await append(events)
            self.pass_by("append:after")
            return result

        return appending
