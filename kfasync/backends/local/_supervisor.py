"""The supervisor: one daemon for each KFASYNC_HOME, which serves local processes as dockerd serves containers.

It owns admission, GPU slots, zygotes and ranks, writes the journal, and answers on a Unix socket. Clients come and go.
When it dies the ranks go on, and the next one adopts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kfasync import __version__, events, log
from kfasync.backends.local import _process
from kfasync.backends.local._claims import read_claims, read_launched
from kfasync.backends.local._collector import collect, collect_jobs
from kfasync.backends.local._connection import Connection
from kfasync.backends.local._devices import find_gpus
from kfasync.backends.local._gang import Exit
from kfasync.backends.local._launch import Launch
from kfasync.backends.local._layout import Home, remove_tree
from kfasync.backends.local._marks import Marks
from kfasync.backends.local._packages import Environments
from kfasync.backends.local._ranks import RankProcess
from kfasync.backends.local._reaper import Reaper
from kfasync.backends.local._removal import leave_when_removed
from kfasync.backends.local._room import Ballast, empty
from kfasync.backends.local._runner import Runner
from kfasync.backends.local._wire import PROTOCOL
from kfasync.backends.local._zygotes import Cgroups, ZygoteKey, Zygotes
from kfasync.errors import (
    BackendError,
    BackendUnavailableError,
    JobExistsError,
    JobNotFoundError,
    JournalError,
    KfasyncError,
)
from kfasync.events import Event
from kfasync.jobs import JobSpec
from kfasync.settings import Settings
from kfasync.state import Admission, Grant, JobState, Journal, Status, stop_reason

__all__ = ["Supervisor"]

# Seconds between two tries to write to a journal that refuses.
_MAX_RETRY_DELAY = 30.0

Operation = Callable[["Supervisor", dict[str, Any], bytes], Awaitable[dict[str, Any]]]


class Supervisor:
    """Everything of one home, within one task group.

    Args:
        home: The directory it serves.
        settings: Its settings, read from the environment of the client that started it.
    """

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.place = home.place
        self.settings = settings
        self.tasks: asyncio.TaskGroup
        self.journal: Journal
        self._runners: dict[str, Runner] = {}
        self._grants: dict[str, asyncio.Future[Grant]] = {}
        self._connections: set[Connection] = set()
        self._ended = asyncio.Event()
        self._expiring: set[str] = set()
        self._ballast = Ballast(home)
        self._room = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._ends = 0
        self.log = log.get("local.supervisor")

    async def serve(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until stopped or idle.

        Args:
            listener: The listening Unix socket.
            ready: Called when requests can be answered.
        """
        loop = asyncio.get_running_loop()
        cgroups = Cgroups(_process.cgroup_base(_process.cgroup_name(self.home.root)))
        reaper = Reaper()
        reaper.start()
        gpus = find_gpus(self.settings.gpus)
        cores = len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._admission = Admission(
            cpus=float(cores), memory=memory, gpus=gpus, max_ranks=cores * self.settings.ranks_per_core
        )
        self.journal = await self._ballast.open_journal(self.home.journal)
        self.marks = Marks(self.settings.log_limit)
        self.environments = Environments(self.home.environments, reaper.run, self.settings.keep_environments)
        self.zygotes = Zygotes(reaper, cgroups, self.home.log, self.settings.zygote_idle_timeout)
        try:
            async with asyncio.TaskGroup() as self.tasks:
                background = self.tasks.create_task(self.marks.run())
                await self._adopt(cgroups)
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, self._ended.set)
                server = await loop.create_unix_server(lambda: Connection(self), sock=listener)
                ready()
                self.tasks.create_task(leave_when_removed(self.home, self.journal, self._runners, self._ended.set))
                self._watch_idle()
                await self._ended.wait()
                server.close()
                # Ranks go on without us; whatever else we started ends with us.
                background.cancel()
                for connection in list(self._connections):
                    connection.transport.close()
                await self.environments.aclose()
                await self.zygotes.aclose()
                raise _Leave
        except* _Leave:
            self.log.info("supervisor_ended")
        finally:
            reaper.stop()
            cgroups.close()
            await self.journal.aclose()

    # ---------------------------------------------------------------- what a runner needs

    async def record(self, *happened: Event) -> None:
        """Write events to the journal, however long it takes: a full disk is emptied some day, and a fact stays one."""
        delay = 0.5
        while True:
            try:
                await self.journal.append(happened)
                self._ballast.keep()
                return
            except JournalError as error:
                if self._ballast.give():
                    continue
                self.log.error("journal_refused", error=str(error), retry_in=delay)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._room.wait()
                delay = min(delay * 2, _MAX_RETRY_DELAY)

    async def admit(self, runner: Runner) -> Grant:
        """Wait for a place on the machine."""
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._grants[runner.uid] = future
        self._grant(self._admission.want(runner.uid, runner.claim))
        if not future.done():
            await runner.queued(f"waiting for room on this machine ({len(self._admission.queued)} queued)")
        grant = await future
        if grant.oversized:
            await runner.warn("Oversized", "it asks for more than this machine has, so it runs alone")
        if grant.lacks_gpus:
            await runner.warn("NoGPU", "it asks for more GPUs than this machine has, so it runs without")
        return grant

    def release(self, uid: str) -> None:
        """Give a job's place back, or take it off the queue."""
        self._grants.pop(uid, None)
        self._grant(self._admission.release(uid))

    def _grant(self, grants: list[Grant]) -> None:
        for grant in grants:
            if (future := self._grants.get(grant.uid)) is not None and not future.done():
                future.set_result(grant)

    # ---------------------------------------------------------------- jobs

    def _start(
        self, job: JobState, adopted: dict[int, RankProcess | Exit] | None = None, launch: Launch | None = None
    ) -> Runner:
        runner = self._runners[job.uid] = Runner(self, job, launch)
        self.tasks.create_task(self._run(runner, adopted))
        return runner

    async def _run(self, runner: Runner, adopted: dict[int, RankProcess | Exit] | None) -> None:
        try:
            await runner.run(adopted)
        except Exception as error:
            # One job must not take the others down with it, whatever it is that we did not foresee.
            self.log.error("job_broke", job=runner.name, error=repr(error), exc_info=True)
            reason = "ENOSPC" if isinstance(error, OSError) and error.errno == errno.ENOSPC else "Error"
            await self.record(runner.event(events.JobFailed, reason=reason, message=f"{type(error).__name__}: {error}"))
        finally:
            self._runners.pop(runner.uid, None)
            self._watch_idle()
        if Path(runner.python).is_relative_to(self.home.environments):
            await self._collect_environments()
        await self._settle(runner.uid)
        await self._collect_jobs()

    async def _collect_jobs(self) -> None:
        """Keep to the limits also while jobs come and go for weeks."""
        self._ends += 1
        # A tenth more than the limit, so that not every end costs a look at all jobs.
        if self._ends % max(1, self.settings.keep_jobs // 10) == 0:
            try:
                await collect_jobs(self.home, self.journal, self.settings)
            except JournalError as error:
                self.log.warning("jobs_uncollected", error=str(error))

    async def _settle(self, uid: str) -> None:
        """Clean up behind a job that has stopped. One that was cancelled while it was being suspended ends now."""
        job = await self.journal.job_by_uid(uid)
        if job is not None and job.stop == "suspend" and _has_no_process(job):
            await self.record(events.JobSuspended(**self._header(job)))
        stopped = job is not None and (job.status is Status.SUSPENDED or _has_no_process(job))
        if job is not None and stopped and job.stop not in (None, "suspend"):
            reason, message = stop_reason(job.stop or "", job.stop_message)
            await self.record(events.JobFailed(**self._header(job), reason=reason, message=message))
            job = await self.journal.job_by_uid(uid)
        if job is not None and job.terminal:
            self._after_end(job)

    def _after_end(self, job: JobState) -> None:
        self.home.job(job.uid).forget_private()
        if job.job_spec.ttl is not None:
            left = (job.finished or time.time()) + job.job_spec.ttl - time.time()
            loop = asyncio.get_running_loop()
            self._expiring.add(job.uid)
            self._watch_idle()
            loop.call_later(max(0.0, left), lambda: self.tasks.create_task(self._remove(job)))

    async def _remove(self, job: JobState) -> None:
        self._expiring.discard(job.uid)
        self._watch_idle()
        await asyncio.to_thread(remove_tree, self.home.job(job.uid).root)
        await self.record(events.JobDeleted(**self._header(job)))

    def _header(self, job: JobState) -> dict[str, Any]:
        """What an event of this job, now, begins with."""
        return {"place": self.place, "job": job.name, "uid": job.uid, "attempt": job.attempt, "time": time.time()}

    async def _adopt(self, cgroups: Cgroups) -> None:
        """Go on with what an earlier supervisor left, then clean up behind it."""
        kept: set[Path] = set()
        for job in await self.journal.jobs(self.place):
            if job.terminal:
                self._after_end(job)
            elif job.status is Status.SUSPENDED or _has_no_process(job):
                await self._settle(job.uid)
            else:
                kept |= await self._adopt_job(job)
        for path in cgroups.leftovers():
            if path not in kept:
                with contextlib.suppress(OSError):
                    (path / "cgroup.kill").write_text("1")
                    path.rmdir()
        await self._collect_environments()
        removed = await collect(self.home, self.journal, self.settings)
        if removed:
            self.log.info("jobs_collected", count=removed)

    async def _collect_environments(self) -> None:
        await self.environments.collect([Path(runner.python) for runner in self._runners.values() if runner.python])

    async def _adopt_job(self, job: JobState) -> set[Path]:
        directory = self.home.job(job.uid)
        message = "its supervisor died while it was being started"
        lost = events.JobFailed(**self._header(job), reason="Lost", message=message)
        if not directory.launch.exists():
            await self.record(lost)
            return set()
        spec = job.job_spec
        try:
            claims = read_claims(directory, job.attempt, spec.num_nodes * (spec.num_proc_per_node or 1))
        except ValueError as error:
            self.log.error("launch_unreadable", job=job.name, error=str(error))
            await self.record(lost)
            return set()
        ranks = {rank: claim for rank, claim in (claims or {}).items() if claim is not None}
        running = [rank for rank in ranks.values() if isinstance(rank, RankProcess)]
        if not ranks and job.status is Status.RUNNING:
            # It was about to run, and every rank is fenced now: nothing of it ever ran, so it starts again.
            header = self._header(job) | {"attempt": job.attempt + 1}
            await self.record(events.JobRestarting(**header, message=message))
            again = await self.journal.job_by_uid(job.uid)
            assert again is not None
            self._start(again)
        elif not ranks:
            self._start(job)
        elif len(ranks) < len(claims or {}):
            for rank in running:
                rank.kill()
            await self.record(lost)
        else:
            self.log.warning("job_adopted", job=job.name, running=len(running))
            launched = read_launched(directory, job.attempt)
            runner = self._start(job, ranks)
            runner.python = launched.python
            self._admission.adopt(job.uid, runner.claim, launched.devices)
        return {rank.cgroup for rank in running if rank.cgroup is not None}

    # ---------------------------------------------------------------- requests

    async def submit(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Record and start a job; idempotent by uid, and by name and digest."""
        uid, digest = request["uid"], request["digest"]
        spec = JobSpec.from_dict(request["spec"])
        existing = await self.journal.job(self.place, spec.name)
        if existing is not None:
            if existing.uid != uid and existing.digest != digest:
                raise JobExistsError(spec.name, self.place)
            return {"uid": existing.uid}
        launch = Launch.of(request["launch"])
        directory = self.home.job(uid)
        if directory.root.exists():
            # Not ours to remove on failure. The client asks again, and by then it is known.
            raise BackendUnavailableError(f"job {spec.name!r} is being submitted by an earlier request")
        try:
            await directory.create(blob, launch.dump(), spec.num_nodes)
            self._warm(launch)
            event = events.JobSubmitted(
                place=self.place, job=spec.name, uid=uid, time=time.time(), spec=spec.to_dict(), digest=digest
            )
            (recorded,) = await self.journal.append([event])
        except (OSError, KfasyncError) as error:
            shutil.rmtree(directory.root, ignore_errors=True)
            if isinstance(error, OSError):
                raise BackendError(f"the job's directory {directory.root} can't be written: {error}") from error
            raise
        job = await self.journal.job(self.place, spec.name)
        assert job is not None
        if recorded is not None:
            self._start(job, launch=launch)
        else:
            shutil.rmtree(directory.root, ignore_errors=True)
        return {"uid": job.uid}

    def _warm(self, launch: Launch) -> None:
        # The zygote starts while the intent is being committed.
        for preload in () if launch.install else launch.preloads:
            self.zygotes.warm(ZygoteKey(launch.python, preload, launch.ambient), self.tasks)

    async def _known(self, request: dict[str, Any]) -> JobState:
        job = await self.journal.job_by_uid(request["uid"])
        if job is None or job.deleted:
            raise JobNotFoundError(request["name"], self.place)
        return job

    async def stop(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Have a job stopped: ``cause`` is cancel, suspend or prune."""
        job = await self._known(request)
        if job.terminal or (job.status is Status.SUSPENDED and request["cause"] == "suspend"):
            return {}
        cause, message = request["cause"], request.get("message", "")
        wish = events.StopRequested(**self._header(job), cause=cause, message=message)
        try:
            await self.journal.append([wish])
        except JournalError:
            # The job may be what fills the disk: it is stopped first, and the rest is written when there is room.
            self._ask_to_stop(job, cause, message)
            await self.record(wish)
        if not self._ask_to_stop(job, cause, message):
            await self._settle(job.uid)
        return {}

    def _ask_to_stop(self, job: JobState, cause: str, message: str) -> bool:
        runner = self._runners.get(job.uid)
        if runner is not None:
            runner.request_stop(cause, message)
        return runner is not None

    async def resume(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Start a suspended job again."""
        job = await self._known(request)
        if _has_no_process(job):
            raise BackendError(f"the study {job.name!r} goes on when it is opened again, by client.study(name=…)")
        if job.status is Status.SUSPENDED:
            header = self._header(job) | {"attempt": job.attempt + 1}
            (recorded,) = await self.journal.append([events.JobResumed(**header)])
            if recorded is not None:
                resumed = await self._known(request)
                self._start(resumed)
        elif job.stop == "suspend" and not job.terminal:
            raise BackendError(f"job {job.name!r} is still being suspended: wait for Suspended, then resume it")
        return {}

    async def delete(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Stop a job if it runs and remove everything of it; answers when it is gone. May be repeated."""
        job = await self.journal.job_by_uid(request["uid"])
        if job is not None and job.deleted:
            return {}
        job = await self._known(request)
        if await empty(self.home, self.home.job(job.uid)):
            self._room.set()  # Wakes who waits; who comes later waits again.
            self._room.clear()
        await self.stop({**request, "cause": "cancel"}, b"")
        after = job.cursor
        while not (job := await self._known(request)).terminal:
            after = await self.journal.changed(max(after, job.cursor))
        await self._remove(job)
        return {}

    async def status(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """What runs: for ``kfasync supervisor status`` and for tests that kill things."""
        return {
            "pid": os.getpid(),
            "version": __version__,
            "protocol": PROTOCOL,
            "jobs": [runner.name for runner in self._runners.values()],
            "queued": len(self._admission.queued),
            "zygotes": self.zygotes.pids,
            "clients": len(self._connections),
        }

    async def handover(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Leave, so that a supervisor of another version can adopt the jobs, which go on."""
        asyncio.get_running_loop().call_soon(self._ended.set)
        return {}

    # ---------------------------------------------------------------- connections

    async def carry_out(self, op: str, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Do what a client asks.

        Raises:
            KfasyncError: It can't be done, or this version does not know it.
        """
        operation = _OPERATIONS.get(op)
        if operation is None:
            raise BackendError(f"this supervisor (kfasync {__version__}) does not know {op!r}")
        return await operation(self, request, blob)

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._watch_idle()

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._watch_idle()

    def _watch_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._runners and not self._connections and not self._expiring:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self.settings.idle_timeout, self._ended.set)


def _has_no_process(job: JobState) -> bool:
    """Whether its caller runs it, wherever that is: what is asked of such a job is done as soon as it is recorded."""
    return job.job_spec.entry == "asked"


class _Leave(Exception):
    """Ends the supervisor's task group."""


_OPERATIONS: dict[str, Operation] = {
    "submit": Supervisor.submit,
    "stop": Supervisor.stop,
    "resume": Supervisor.resume,
    "delete": Supervisor.delete,
    "status": Supervisor.status,
    "handover": Supervisor.handover,
}
