"""Every journal that a test writes must replay: the recorded events, cut at any prefix, give the recorded states."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kfasync.state import verify

__all__ = ["replaying", "verify_journals"]


def verify_journals(directory: Path) -> list[Path]:
    """Replay every journal below a directory.

    Args:
        directory: Usually a KFASYNC_HOME.

    Returns:
        The journals that were found; all of them are right.

    Raises:
        JournalError: The first one that is not; says at which event.
    """
    journals = sorted(directory.rglob("journal.sqlite3"))
    for journal in journals:
        verify(journal)
    return journals


@contextlib.contextmanager
def replaying(home: Path) -> Iterator[None]:
    """For a fixture of your own: verifies the journals of a home when the test is over.

    Args:
        home: The test's KFASYNC_HOME.

    Example:
        >>> @pytest.fixture(autouse=True)  # doctest: +SKIP
        ... def replayed(home):
        ...     with replaying(home):
        ...         yield
    """
    yield
    verify_journals(home)
