"""What a fake job does: a generator that stands in for the training function."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from kfasync.testing._job import FakeJob

__all__ = ["ATTRIBUTE", "FakeOutOfMemory", "FakeRank", "FakeScript", "plays"]

#: A function that carries this attribute says what a fake backend does in its place.
ATTRIBUTE = "__kfasync_fake__"

_Function = TypeVar("_Function", bound=Callable[..., object])


class FakeOutOfMemory(BaseException):
    """Raised in a script: this rank is killed because its memory ran out.

    Args:
        limit: The limit in bytes, for the message.
    """

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        super().__init__(f"out of memory at {limit} bytes")


@dataclass(frozen=True, kw_only=True)
class FakeScript:
    """What the fake place does with a job.

    ``run`` is called for each rank with a `FakeRank` and the job's arguments. A plain function ends at once; a
    generator lives in virtual time:

    * ``yield 5`` lets it run for 5 seconds; ``yield math.inf`` makes it hang,
    * a bare ``yield`` waits until it is asked to stop (and so tells that it looks at ``should_stop()``),
    * ``return value`` ends it well, with that result,
    * ``raise ValueError(…)`` fails as Python does, ``raise SystemExit(3)`` exits, ``raise FakeOutOfMemory(…)`` is what
      the kernel would do,
    * a rank that is waiting when SIGTERM comes dies of it, unless it called ``rank.ignore_sigterm()``.

    Attributes:
        run: The script of one rank.
        pending: If not empty, the job never starts, and this is why: ``ImagePull``, ``Unschedulable``, …
        message: The sentence that goes with ``pending``.
        start_after: Seconds from submission to the start.

    Example:
        >>> def train(rank, lr=0.1):
        ...     rank.print(f"training with {lr}")
        ...     rank.report(step=1, loss=0.5)
        ...     yield 60
        ...     if rank.rank == 1:
        ...         raise RuntimeError("diverged")
        >>> script = FakeScript(run=train, start_after=2)
    """

    run: Callable[..., object] = lambda rank, **_: None
    pending: str = ""
    message: str = ""
    start_after: float = 0.0


def plays(script: FakeScript | Callable[..., object]) -> Callable[[_Function], _Function]:
    """Tell a `FakeBackend` what to do when it is given the decorated training function.

    The function itself stays as it is: other backends run it.

    Args:
        script: A `FakeScript`, or its ``run`` alone.

    Example:
        >>> def on_fake(rank, n):
        ...     rank.print(f"n is {n}")
        >>> @plays(on_fake)
        ... def train(n):
        ...     print(f"n is {n}")
    """
    whole = script if isinstance(script, FakeScript) else FakeScript(run=script)

    def mark(function: _Function) -> _Function:
        setattr(function, ATTRIBUTE, whole)
        return function

    return mark


class FakeRank:
    """One rank of a fake job, as its script sees it: the fake's version of what `kfasync.worker` offers.

    Attributes:
        node: Node index.
        rank: Global rank.
        local_rank: Rank within the node.
        world_size: Ranks in the group.
        attempt: 1, and one more at each restart or resume.
        env: The job's own variables; secrets have their values here, as in a real rank.
        uid: The job's identity.
    """

    def __init__(self, job: FakeJob, node: int, local_rank: int, per_node: int) -> None:
        self._job = job
        self.node = node
        self.rank = node * per_node + local_rank
        self.local_rank = local_rank
        self.world_size = job.spec.num_nodes * per_node
        self.attempt = job.attempt
        self.env: Mapping[str, str] = job.env
        self.uid = job.uid
        self._script: Generator[float | None, None, object] | None = None
        self._stopped = False
        self._heeds_stop = False
        self._waits_for_stop = False
        self._ignores_sigterm = False
        self._exited = False

    def print(self, text: str, *, stream: str = "stdout") -> None:
        """Print lines, on ``stdout`` or ``stderr``."""
        self._job.output(self, stream, text)

    def report(self, step: float | None = None, /, **values: float) -> None:
        """What `kfasync.report` does."""
        if step is None:
            step = values.pop("step", None) if "step" in values else values.get("epoch")
        if not values:
            raise TypeError("report() has no metrics: give numbers by name, such as report(step=1, loss=0.5)")
        plain = {name: value if math.isfinite(value) else repr(float(value)) for name, value in values.items()}
        self._report({"k": "metric", "s": step, "m": plain})

    def progress(self, percent: float | None = None, *, remaining: float | None = None, message: str = "") -> None:
        """What `kfasync.progress` does."""
        percent = None if percent is None else min(max(percent, 0.0), 100.0)
        self._report({"k": "progress", "p": percent, "r": remaining, "msg": message})

    def should_stop(self) -> bool:
        """What `kfasync.should_stop` does: from the first call on, SIGTERM leaves the rank its grace."""
        self._heeds_stop = True
        return self._stopped

    def ignore_sigterm(self) -> None:
        """From now on only SIGKILL ends this rank from outside."""
        self._ignores_sigterm = True

    def write(self, name: str, text: str) -> None:
        """Write a file into the node's working directory."""
        path = self._job.directory(self.node) / name
        path.write_text(text)

    def checkpoint_dir(self) -> Path:
        """What `kfasync.checkpoint_dir` does."""
        return self._job.checkpoint

    def _report(self, record: dict[str, Any]) -> None:
        self._job.output(self, "report", json.dumps({"t": self._job.world.clock.time(), **record}))
