"""The pause after a failure: the only place where the engine waits for time instead of an event."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kfasync import log
from kfasync.errors import BackendError, BackendTimeoutError, BackendUnavailableError, IncompatibleVersionError

__all__ = ["UNDECIDED", "Backoff", "insist"]

_T = TypeVar("_T")

#: After these nobody knows whether the place took the request, and the next one may well be answered.
UNDECIDED = (BackendTimeoutError, BackendUnavailableError)


# Seconds. The first pause is what a restarting socket needs; the longest keeps a broken daemon's log readable.
_FIRST, _LONGEST = 0.05, 5.0
# Failures in a row after which the callers are told instead of kept waiting: half a minute, in which a daemon restarts.
_ATTEMPTS = 12
# The same for a request that somebody waits for: enough for a lost answer, too short to hide that a place is down.
_INSIST = 4

_log = log.get("engine")


class Backoff:
    """Exponential, jittered, bounded pauses between failures in a row; costs nothing while all is well.

    Args:
        what: What is tried again, for the log.
        attempts: Failures in a row at which `pause` gives up; infinity where nothing is lost by waiting.
    """

    def __init__(self, what: str, attempts: float = _ATTEMPTS) -> None:
        self._what = what
        self._attempts = attempts
        self._failures = 0

    def reset(self) -> None:
        """It worked: the next failure is the first one again."""
        self._failures = 0

    async def pause(self, error: BackendError) -> None:
        """Wait before the next attempt.

        Raises:
            BackendError: The given one, when trying again can't mend it or has not so far.
        """
        self._failures += 1
        if isinstance(error, IncompatibleVersionError) or self._failures >= self._attempts:
            raise error
        _log.warning("retrying", what=self._what, failures=self._failures, error=str(error))
        # The jitter keeps a hundred clients of one restarted daemon from coming back at the same instant.
        longest = min(_LONGEST, _FIRST * 2.0 ** min(self._failures - 1, 10))
        await asyncio.sleep(random.uniform(longest / 2, longest))


async def insist(what: str, request: Callable[[], Awaitable[_T]]) -> _T:
    """Send an idempotent request again when its answer was lost.

    Raises:
        BackendError: The place refused it, or did not answer repeatedly.
    """
    backoff = Backoff(what, _INSIST)
    while True:
        try:
            return await request()
        except UNDECIDED as error:
            await backoff.pause(error)
