"""One line in a terminal that says how far a study is, while somebody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kfasync.errors import KfasyncError
from kfasync.events import Event
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._study import Study
from kfasync.optimizer._wording import lasting, shown, visible

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from kfasync.optimizer._studies import Studies
    from kfasync.state import JobState

__all__ = ["Line", "line_of", "showing"]

# Seconds from one drawing to the next: at least, however much happens, and at most, for the clock.
_SOONEST, _LATEST = 0.1, 1.0
#: Held by the line on the screen: a second one would overwrite it.
_SCREEN = threading.Lock()


class Line:
    """The line, from entering to leaving the context; what it said last stays on the screen.

    It belongs to the event loop it is entered on. It shows nothing where standard error is no terminal, or while
    another one of this process is on the screen. What is printed meanwhile appears above it.

    Args:
        name: The study's name.
        study: Its bookkeeping, which `apply` keeps up to date.
        created: Unix time at which the study was, in seconds.

    Attributes:
        study: The same.
        showing: Whether it is on the screen.
    """

    def __init__(self, name: str, study: Study, created: float) -> None:
        self.study = study
        self.showing = False
        self._name = name
        self._created = created
        self._drawn = 0.0
        self._timer: asyncio.TimerHandle

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty() and _SCREEN.acquire(blocking=False):
            self.showing = True
            self._loop = asyncio.get_running_loop()
            try:
                self._live = _live()
                self._live.start()
                self._draw()
            except BaseException:
                _SCREEN.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.showing:
            self._timer.cancel()
            with contextlib.suppress(OSError):  # The terminal has gone.
                self._live.update(self._text())
                self._live.stop()
            _SCREEN.release()

    def apply(self, event: Event) -> None:
        """Take in an event of the study's job."""
        self.study.apply(event)
        if not self.showing:
            return
        due = max(self._drawn + _SOONEST, self._loop.time())
        if due < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(due, self._draw)

    def _draw(self) -> None:
        self._drawn = self._loop.time()
        self._timer = self._loop.call_at(self._drawn + _LATEST, self._draw)
        with contextlib.suppress(OSError):  # The terminal has gone, which is no reason to stop waiting for the study.
            self._live.update(self._text(), refresh=True)

    def _text(self) -> Text:
        from rich.text import Text

        return Text(line_of(self._name, self.study, time.time() - self._created), no_wrap=True, overflow="ellipsis")


@contextlib.asynccontextmanager
async def showing(studies: Studies, state: JobState) -> AsyncIterator[None]:
    """Within it a line in the terminal, if there is one, says how far a study is.

    Args:
        studies: Where it is known.
        state: Its own job.
    """
    with Line(state.name, studies.blank(state), state.created) as line:
        if not line.showing:
            yield
            return
        following = asyncio.create_task(_follow(line, studies, state.name))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])
            # The last events may have been on their way still.
            with contextlib.suppress(KfasyncError):
                line.study = await studies.study(state)


async def _follow(line: Line, studies: Studies, name: str) -> None:
    # Whatever is wrong with the place, the wait itself will say.
    with contextlib.suppress(KfasyncError):
        async with contextlib.aclosing(studies.events(name)) as events:
            async for event in events:
                line.apply(event)


def _live() -> Live:
    # Loaded for those who see it.
    from rich.console import Console
    from rich.live import Live

    # What is printed into a pipe must not come out in the terminal.
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Live(console=Console(stderr=True), auto_refresh=False, redirect_stdout=terminal)


def line_of(name: str, study: Study, elapsed: float) -> str:
    """What the line says.

    Args:
        name: The study's name.
        study: Its bookkeeping.
        elapsed: Seconds since it was created.

    Example:
        >>> from kfasync.optimizer import Objective, TrialConfig
        >>> line_of("demo", Study([Objective("loss")], TrialConfig(20)), 61)
        'demo  0/20 trials, 0 running, 1:01'
    """
    counts = Counter(trial.state for trial in study.trials.values())
    done = len(study.trials) - counts[TrialState.RUNNING]
    parts = [f"{visible(name)}  {done}/{study.config.num_trials} trials", f"{counts[TrialState.RUNNING]} running"]
    parts += [f"{counts[state]} {state}" for state in (TrialState.FAILED, TrialState.PRUNED) if counts[state]]
    if len(study.objectives) > 1 and study.best_value is not None:
        parts.append(f"{len(study.best)} on the Pareto front")
    elif study.best_value is not None:
        parts.append(f"best {visible(study.objectives[0].metric)} {shown(study.best_value)}")
    return ", ".join([*parts, lasting(elapsed)])
