"""A place in memory: it outlives the engines that use it, as a daemon does, and does only what a test tells it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfasync.backends.base import Backend, LogLine, LogQuery, Submission, Synced
from kfasync.errors import BackendUnavailableError, JobExistsError, KfasyncError, ResultError
from kfasync.events import (
    Event,
    JobCompleted,
    JobDeleted,
    JobFailed,
    JobResumed,
    JobStarted,
    JobSubmitted,
    JobSuspended,
)
from kfasync.jobs import JobSpec
from kfasync.state import JobState, Journal


@dataclass
class Job:
    spec: JobSpec
    submitted: JobSubmitted
    events: list[Event]
    attempt: int = 1
    lines: list[LogLine] = field(default_factory=list)
    printed: asyncio.Event = field(default_factory=asyncio.Event)
    result: Any = None
    workdir: Path | None = None


class Place:
    """The world behind a backend: jobs by uid, who watches, and what goes wrong.

    Attributes:
        name: The place's identity.
        created: How many jobs were really created.
        listings: How often a watch listed the jobs.
        refusal: Raised by submit before anything is created.
        lost_replies: Raised by submit after the job was created.
        cut_logs: After how many lines the next log streams break.
    """

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.jobs: dict[str, Job] = {}
        self.created = 0
        self.listings = 0
        self.refusal: Exception | None = None
        self.lost_replies: list[Exception] = []
        self.cut_logs: list[int] = []
        self.broken: list[Exception] = []
        self.gate: asyncio.Event | None = None
        self.lock = asyncio.Lock()
        self.journal: Journal | None = None
        self.watchers: set[asyncio.Queue[Event | Exception]] = set()

    def header(self, uid: str, attempt: int | None = None) -> dict[str, Any]:
        job = self.jobs[uid]
        return {
            "place": self.name,
            "job": job.spec.name,
            "uid": uid,
            "attempt": attempt or job.attempt,
            "time": time.time(),
        }

    async def create(self, uid: str, spec: JobSpec) -> None:
        submitted = JobSubmitted(
            place=self.name, job=spec.name, uid=uid, time=time.time(), spec=spec.to_dict(), digest=spec.digest
        )
        self.jobs[uid] = Job(spec, submitted, [])
        self.created += 1
        await self.tell(uid, submitted)

    async def tell(self, uid: str, *events: Event) -> None:
        self.jobs[uid].events.extend(events)
        if self.journal is not None:
            await self.journal.append(list(events))
        for queue in self.watchers:
            for event in events:
                queue.put_nowait(event)

    async def start(self, uid: str) -> None:
        await self.tell(uid, JobStarted(**self.header(uid)))

    async def finish(self, uid: str, result: Any = None) -> None:
        self.jobs[uid].result = result
        await self.tell(uid, JobCompleted(**self.header(uid)))

    async def fail(self, uid: str, **why: Any) -> None:
        await self.tell(uid, JobFailed(**self.header(uid), **{"reason": "Error", **why}))

    def vanish(self, uid: str) -> None:
        del self.jobs[uid]

    def break_watches(self, error: Exception) -> None:
        for queue in self.watchers:
            queue.put_nowait(error)

    def print(self, uid: str, text: str, *, stream: str = "stdout", rank: int = 0) -> None:
        job = self.jobs[uid]
        line = LogLine(
            text=text,
            stream=stream,
            rank=rank,
            attempt=job.attempt,
            position=sum(len(before.text) + 1 for before in job.lines),
            cursor=str(len(job.lines)),
        )
        job.lines.append(line)
        job.printed.set()

    def uid(self, name: str) -> str:
        return next(uid for uid, job in self.jobs.items() if job.spec.name == name)


class MemoryBackend(Backend):
    """An engine's view of a `Place`."""

    def __init__(self, place: Place, *, opening: Exception | None = None) -> None:
        self.world = place
        self.opening = opening
        self.open_count = 0

    @property
    def place(self) -> str:
        return self.world.name

    async def open(self, journal: Journal) -> None:
        if self.opening is not None:
            raise self.opening
        self.open_count += 1

    async def aclose(self) -> None:
        self.open_count = 0

    def check(self, spec: JobSpec, payload: Any) -> None:
        return

    async def submit(self, submission: Submission) -> None:
        if self.world.gate is not None:
            await self.world.gate.wait()
        if self.world.refusal is not None:
            raise self.world.refusal
        if submission.uid not in self.world.jobs:
            await self._create(submission)
        if self.world.lost_replies:
            raise self.world.lost_replies.pop()

    async def _create(self, submission: Submission) -> None:
        await self.world.create(submission.uid, submission.spec)

    async def watch(self) -> AsyncIterator[Event | Synced]:
        if self.world.broken:
            raise self.world.broken.pop(0)
        queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.world.watchers.add(queue)
        self.world.listings += 1
        try:
            for job in list(self.world.jobs.values()):
                for event in list(job.events):
                    yield event
            yield Synced(uids=frozenset(self.world.jobs))
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.world.watchers.discard(queue)

    async def logs(self, job: JobState, query: LogQuery, done: asyncio.Event) -> AsyncIterator[LogLine]:
        own = self.world.jobs[job.uid]
        first = int(query.since) + 1 if isinstance(query.since, str) else 0
        cut = first + self.world.cut_logs.pop() if self.world.cut_logs else -1
        for index in itertools.count(first):
            if index == cut:
                raise BackendUnavailableError("the stream was cut")
            while index >= len(own.lines):
                if not query.follow or done.is_set():
                    return
                own.printed.clear()
                waits = [asyncio.ensure_future(own.printed.wait()), asyncio.ensure_future(done.wait())]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
            line = own.lines[index]
            if line.stream in query.streams and query.attempt in (None, line.attempt):
                yield line

    async def cancel(self, job: JobState, *, cause: str = "cancel", message: str = "") -> None:
        await self.world.fail(job.uid, reason="Cancelled")

    async def suspend(self, job: JobState) -> None:
        await self.world.tell(job.uid, JobSuspended(**self.world.header(job.uid)))

    async def resume(self, job: JobState) -> None:
        self.world.jobs[job.uid].attempt += 1
        await self.world.tell(job.uid, JobResumed(**self.world.header(job.uid)))

    async def delete(self, job: JobState) -> None:
        self.world.jobs.pop(job.uid, None)

    async def results(self, job: JobState, rank: int | None = None) -> dict[int, Any]:
        value = self.world.jobs[job.uid].result
        if isinstance(value, KfasyncError):
            raise value
        return {} if value is None else {0: value}

    async def files(self, job: JobState, node: int) -> Path:
        root = self.world.jobs[job.uid].workdir
        if root is None:
            raise ResultError("no files")
        return root

    async def runtimes(self) -> list[Any]:
        return []

    async def runtime_packages(self, runtime: Any) -> str:
        return ""


class RecordingBackend(MemoryBackend):
    """The same for a place that writes the journal itself."""

    journals = True

    async def submit(self, submission: Submission) -> None:
        async with self.world.lock:
            await super().submit(submission)

    async def _create(self, submission: Submission) -> None:
        for job in self.world.jobs.values():
            if job.spec.name == submission.spec.name:
                if job.spec.digest != submission.spec.digest:
                    raise JobExistsError(submission.spec.name, self.place)
                return
        await self.world.create(submission.uid, submission.spec)

    async def delete(self, job: JobState) -> None:
        deleted = JobDeleted(place=self.place, job=job.name, uid=job.uid, attempt=job.attempt, time=time.time())
        await self.world.tell(job.uid, deleted)
        self.world.vanish(job.uid)
