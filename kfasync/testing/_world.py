"""The place where fake jobs run. It outlives its clients, as a daemon does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from kfasync.errors import JobExistsError
from kfasync.events import Event, JobDeleted
from kfasync.testing._clock import VirtualClock
from kfasync.testing._inject import Inject
from kfasync.testing._job import FakeJob
from kfasync.testing._script import ATTRIBUTE, FakeScript

if TYPE_CHECKING:
    from kfasync.backends.base import Submission
    from kfasync.payload import Payload

__all__ = ["FakeWorld"]


class FakeWorld:
    """Jobs in memory, on a virtual clock. Several `FakeBackend`\\ s may share one, as clients share a daemon.

    Args:
        place: The place's identity.
        auto: Whether virtual time flies by itself (see `VirtualClock`); else a test calls `advance`.
        files: Directory for the jobs' working directories; without one, jobs have no files.
        start: First reading of the clock, a Unix time in seconds.

    Attributes:
        clock: The place's time.
        inject: Faults to come.
        created: The names of the jobs that were really created, in order: what a retry must not do twice.
    """

    def __init__(
        self, place: str = "fake", *, auto: bool = False, files: Path | None = None, start: float = 1_700_000_000.0
    ) -> None:
        self.place = place
        self.files = files
        self.clock = VirtualClock(start, auto=auto)
        self.inject = Inject(self.clock)
        self.created: list[str] = []
        self._jobs: dict[str, FakeJob] = {}
        self._scripts: dict[str, FakeScript] = {}
        self._changed = asyncio.Event()

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        await self.clock.advance(seconds)

    def script(self, job: str, script: FakeScript) -> None:
        """Say what the job of this name will do, whatever function it is given."""
        self._scripts[job] = script

    def job(self, uid: str) -> FakeJob | None:
        """The job that has this identity, unless it was deleted."""
        return self._jobs.get(uid)

    def named(self, name: str) -> FakeJob | None:
        """The job that has this name."""
        return next((job for job in self._jobs.values() if job.spec.name == name), None)

    def jobs(self) -> list[FakeJob]:
        """Every job of the place, in order of creation."""
        return list(self._jobs.values())

    def create(self, submission: Submission) -> None:
        """Create a job; one that is there already stays as it is.

        Raises:
            JobExistsError: Another job has the name.
        """
        if submission.uid in self._jobs:
            return
        name = submission.spec.name
        if self.named(name) is not None:
            raise JobExistsError(name, self.place)
        script, kwargs = self._script_of(name, submission.payload)
        job = FakeJob(self, submission, script, kwargs)
        self._jobs[submission.uid] = job
        self.created.append(name)
        job.queue()

    def remove(self, uid: str) -> None:
        """Remove a job and everything of it, without a word: what somebody does behind the client's back."""
        job = self._jobs.pop(uid, None)
        if job is not None:
            job.kill()
            self.notify()

    def kill_rank(self, job: str, rank: int = 0) -> None:
        """End a rank as ``kill -9`` from outside does; nothing happens where there is none that runs.

        Args:
            job: The job's name.
            rank: Its global rank.
        """
        for each in self._jobs.values():
            if each.spec.name == job:
                each.kill_rank(rank)

    def expire(self, uid: str) -> None:
        """Remove a job whose time to live is over, and say so."""
        job = self._jobs.get(uid)
        if job is not None:
            self.remove(uid)
            now = self.clock.time()
            self.deliver(JobDeleted(place=self.place, job=job.spec.name, uid=uid, attempt=job.attempt, time=now))

    def deliver(self, event: Event) -> None:
        """Tell the connected clients."""
        self.inject.deliver(event)

    def notify(self) -> None:
        """Wake those who read logs."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def next_change(self) -> asyncio.Event:
        """Set at the next change of anything after this call."""
        return self._changed

    def _script_of(self, name: str, payload: Payload) -> tuple[FakeScript, Mapping[str, Any]]:
        kwargs: Mapping[str, Any] = {}
        script: object = None
        if payload.kind == "function":
            # Safe: the bytes were made by the very test that runs the fake.
            function, given = cloudpickle.loads(payload.data)
            script, kwargs = getattr(function, ATTRIBUTE, None), given or {}
        chosen = self._scripts.get(name, script)
        return (chosen, kwargs) if isinstance(chosen, FakeScript) else (FakeScript(), kwargs)
