"""What to do with a group of ranks that start, run and end together. PURE: no clock, no processes, no loop.

The shell feeds in what happened and carries out the commands that come back. One rank's failure ends the others; a stop
asks every rank with SIGTERM and ends what is left when the grace is over.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Exit", "Gang", "Kill", "Outcome", "StartTimer", "Terminate"]

#: Seconds a killed process gets to vanish before it is called unkillable (it hangs in the kernel, for example on NFS).
UNKILLABLE_AFTER = 30.0


@dataclass(frozen=True)
class Terminate:
    """Ask these ranks to stop: SIGTERM, and their stop file."""

    ranks: frozenset[int]


@dataclass(frozen=True)
class Kill:
    """End these ranks and everything they started."""

    ranks: frozenset[int]


@dataclass(frozen=True)
class StartTimer:
    """Call `Gang.timer` with this name after so many seconds."""

    name: str
    seconds: float


Command = Terminate | Kill | StartTimer


@dataclass(frozen=True)
class Exit:
    """How one rank ended.

    Attributes:
        rank: Global rank.
        code: Exit code, negative for a signal, None when nobody can know.
        time: Unix time of the exception or the end: tells who failed first when several did.
        blamed: Whether the rank itself recorded an exception (a rank that lost its peer usually did so later).
        out_of_memory: Whether the kernel is known to have killed it for want of memory.
    """

    rank: int
    code: int | None
    time: float
    blamed: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True)
class Outcome:
    """How the group ended: ``complete``, ``failed`` (with the first failure), ``stopped`` (with the cause),
    ``unkillable``."""

    kind: str
    cause: str = ""
    first: Exit | None = None


class Gang:
    """The bookkeeping of one attempt.

    Args:
        ranks: World size.
        grace: Seconds between SIGTERM and SIGKILL.
    """

    def __init__(self, ranks: int, grace: float) -> None:
        self.alive: set[int] = set(range(ranks))
        self.grace = grace
        self.cause = ""
        self._failures: list[Exit] = []
        self._unkillable = False

    def exited(self, exit_: Exit) -> list[Command]:
        """One rank ended."""
        self.alive.discard(exit_.rank)
        # What ends after a stop was asked for did as it was told, unless it failed by itself before that.
        if exit_.code != 0 and (self.cause in ("", "failure")):
            # A rank that our SIGTERM ended after another's failure is no cause of anything.
            if not (self.cause == "failure" and exit_.code is not None and exit_.code < 0 and not exit_.blamed):
                self._failures.append(exit_)
            if not self.cause:
                return self._stop("failure")
        return []

    def stop(self, cause: str) -> list[Command]:
        """Somebody wants the group to end. The first cause stays; asking again changes nothing."""
        return [] if self.cause else self._stop(cause)

    def timer(self, name: str) -> list[Command]:
        """A timer that `StartTimer` asked for went off."""
        if not self.alive:
            return []
        if name == "grace":
            return [Kill(frozenset(self.alive)), StartTimer("unkillable", UNKILLABLE_AFTER)]
        self._unkillable = True
        return []

    @property
    def outcome(self) -> Outcome | None:
        """The end, or None while ranks are alive."""
        if self._unkillable:
            return Outcome("unkillable", self.cause, self.first)
        if self.alive:
            return None
        if self._failures:
            return Outcome("failed", self.cause, self.first)
        return Outcome("stopped", self.cause) if self.cause else Outcome("complete")

    @property
    def first(self) -> Exit | None:
        """The rank that failed first: by its own record's time, since ends are seen in any order."""
        return min(self._failures, key=lambda exit_: (not exit_.blamed, exit_.time), default=None)

    def _stop(self, cause: str) -> list[Command]:
        self.cause = cause
        if not self.alive:
            return []
        return [Terminate(frozenset(self.alive)), StartTimer("grace", self.grace)]
