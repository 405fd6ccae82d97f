"""The protocol between the engine and a place where jobs run.

A backend knows how to create, watch, stop and read jobs in one place. It keeps no truth of its own: what it observes it
yields from `Backend.watch` as events, and the engine records them in the journal, whose order is the order everybody
sees. The one exception is a place that records for itself (``journals = True``): the local supervisor goes on when
every client is gone, so it writes the journal, and its clients read it.

Rules that the engine relies on, each a test of the conformance suite (`kfasync.testing.conformance`):

* `submit` is idempotent by ``job.uid``: called again after a lost answer it finds its own job and creates nothing.
* `watch` first yields, for every job of the place, the events that describe its present state (keys make the known ones
  no-ops), then one `Synced`, then live events. After a lost connection it does the same again, with a `Gap` before the
  reconciled state where history may be missing. It ends only by cancellation; it raises only what retrying can't mend.
* Terminal events are yielded when everything of that attempt has ended, and exactly one of them ever counts.
* `logs` never takes the end of a stream for the end of the job: with ``follow`` it ends when ``done`` is set and
  everything up to there was yielded.
* `cancel`, `suspend`, `resume` and `delete` are idempotent and return when the request is durable in the place, not
  when the job has reached the state; the events tell that.
* Whatever a backend can't do, `check` refuses with `UnsupportedError`, before anything is created.
* Where ``checkpoints`` is True, KFASYNC_CHECKPOINT_DIR names one directory for all ranks of a job, which whoever needs
  it makes, and which is kept over restarts, suspend and resume. With ``checkpoint_from`` it is there before the first
  rank starts: a copy of that of the job named, a whole one, or the job fails with the reason NoCheckpoint.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kfasync.errors import UnsupportedError
from kfasync.events import Event

if TYPE_CHECKING:
    import asyncio

    from kfasync.jobs import JobSpec, Runtime
    from kfasync.payload import Payload
    from kfasync.state import JobState, Journal

__all__ = ["Backend", "BackendConfig", "LogLine", "LogQuery", "Submission", "Synced"]


class BackendConfig(Protocol):
    """What a client is given to choose a place: a pydantic model that names its backend by import string.

    ``backend_path`` is ``"module:attribute"`` of a callable that takes the config and returns a `Backend`; it is loaded
    on first use, so that a config costs no import of a client library.
    """

    backend_path: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Everything that a backend needs to create a job.

    Attributes:
        uid: The new job's identity, chosen by the engine.
        spec: The job.
        payload: Function or script, ready to run.
        secrets: Values of the spec's `SecretRef`\\ s by variable name, for this call only: never stored by the engine.
    """

    uid: str
    spec: JobSpec
    payload: Payload
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Synced:
    """The watch has told everything about the place's present state.

    Attributes:
        uids: The jobs that the place has now. A job that the journal believes to be alive and that is not among them
            is lost, and the engine says so.
    """

    uids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    """Which lines to read.

    Attributes:
        step: ``node-0``, ``dataset-initializer``, … or None for all nodes merged.
        rank: One global rank, or None for all ranks of the step.
        follow: Whether to wait for more until the job has ended.
        tail: Only the last so many lines of what is there at the start.
        since: A cursor that an earlier `LogLine` carried, or a Unix time in seconds.
        attempt: One attempt, or None for the latest.
        streams: Which of ``stdout``, ``stderr`` and ``report`` to yield.
    """

    step: str | None = "node-0"
    rank: int | None = None
    follow: bool = False
    tail: int | None = None
    since: str | float | None = None
    attempt: int | None = None
    streams: Sequence[str] = ("stdout", "stderr")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """One line of output.

    Attributes:
        text: The line without its end, which may be a carriage return, as progress bars print it. Bytes that are no
            UTF-8 are replaced. A line longer than 64 KiB comes in pieces.
        stream: ``stdout``, ``stderr``, ``report`` (a marked line of the worker, JSON) or ``gap`` (lines were lost here;
            the text says how much).
        node: Node index.
        rank: Global rank.
        attempt: The attempt that printed it.
        time: Unix time in seconds, as exact as the place can tell; None when it can't.
        position: Offset of the line's first byte in its stream.
        cursor: Give it as ``since`` to go on behind this line.
    """

    text: str
    stream: str = "stdout"
    node: int = 0
    rank: int = 0
    attempt: int = 1
    time: float | None = None
    position: int = 0
    cursor: str = ""


class Backend(abc.ABC):
    """A place where jobs run. Instances belong to one event loop, between `open` and `aclose`."""

    #: True where the place records its own events in the shared journal.
    journals: ClassVar[bool] = False
    #: True where a job has a checkpoint directory and can start with a copy of another one's. Elsewhere the engine
    #: refuses a spec with ``checkpoint_from``.
    checkpoints: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Identity of the place, stable over restarts: names are unique in it. Valid after `open`."""

    @abc.abstractmethod
    async def open(self, journal: Journal) -> None:
        """Get ready; called once. Must not start anything that a mere listing does not need.

        Raises:
            BackendUnavailableError: The place can't be reached; says what was tried.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Release everything of this process; jobs go on."""

    @abc.abstractmethod
    def check(self, spec: JobSpec, payload: Payload) -> None:
        """Refuse what this place can't run.

        Raises:
            UnsupportedError: Says which argument to change.
        """

    def prepare(self) -> None:  # noqa: B027
        """A submit is about to come: begin in the background what it will wait for, such as a connection.

        Nothing by default. Whatever goes wrong is told by the submit itself.
        """

    @abc.abstractmethod
    async def submit(self, submission: Submission) -> None:
        """Create the job; idempotent by uid.

        A place with ``journals = True`` also records JobSubmitted, and raises `JobExistsError` for a name with another
        digest; for the same digest it returns and creates nothing. Elsewhere the engine has done both before.
        """

    @abc.abstractmethod
    def watch(self) -> AsyncIterator[Event | Synced]:
        """Everything that happens in the place, from its present state on (see the module's rules)."""

    @abc.abstractmethod
    def logs(self, job: JobState, query: LogQuery, done: asyncio.Event) -> AsyncIterator[LogLine]:
        """The job's output. ``done`` is set by the engine when the job has ended."""

    @abc.abstractmethod
    async def cancel(self, job: JobState, *, cause: str = "cancel", message: str = "") -> None:
        """Have the job stopped; it ends as Failed(Cancelled), or Failed(Pruned), unless it ended before.

        Args:
            job: The job.
            cause: ``cancel`` or ``prune``.
            message: What a person needs to know of it.
        """

    @abc.abstractmethod
    async def suspend(self, job: JobState) -> None:
        """Have the job stopped with grace; it becomes Suspended and its resources free."""

    @abc.abstractmethod
    async def resume(self, job: JobState) -> None:
        """Have a suspended job start again as a new attempt."""

    @abc.abstractmethod
    async def delete(self, job: JobState) -> None:
        """Have the job stopped if it runs, and everything of it removed. JobDeleted follows.

        Where ``journals`` is False the engine records JobDeleted when this returns.
        """

    @abc.abstractmethod
    async def results(self, job: JobState, rank: int | None = None) -> dict[int, Any]:
        """What the function returned, by global rank.

        Args:
            job: The job.
            rank: Only this rank's value, whatever became of the others'; None for all.

        Raises:
            ResultError: One of these values can't be had; says why.
        """

    @abc.abstractmethod
    async def files(self, job: JobState, node: int) -> Path:
        """The working directory of one node, as a directory that this process can read."""

    async def checkpoint(self, job: JobState) -> Path:
        """The job's checkpoint directory, as one that this process can read; not there if the job never made it.

        Raises:
            UnsupportedError: Jobs of this place have none.
        """
        raise UnsupportedError(f"jobs of {self.place} have no checkpoint directory")

    @abc.abstractmethod
    async def runtimes(self) -> list[Runtime]:
        """The training runtimes of this place."""

    @abc.abstractmethod
    async def runtime_packages(self, runtime: Runtime) -> str:
        """What Kubeflow prints: Python version, installed packages, devices."""
