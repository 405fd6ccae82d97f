"""The life of one job in the supervisor: queued, installed, launched, watched, ended. A thin shell around `Gang`."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kfasync import events, log
from kfasync.backends.local._claims import read_launched, write_launched
from kfasync.backends.local._gang import (
    UNKILLABLE_AFTER,
    Command,
    Exit,
    Gang,
    Kill,
    Outcome,
    StartTimer,
    Terminate,
)
from kfasync.backends.local._handover import provide_checkpoint
from kfasync.backends.local._launch import (
    Launch,
    Rendezvous,
    rank_context,
    rank_environment,
    write_exec_context,
)
from kfasync.backends.local._layout import JobDir
from kfasync.backends.local._logs import last_lines
from kfasync.backends.local._ranks import RankProcess, read_exit_record
from kfasync.backends.local._zygotes import Child, ZygoteKey, import_environment
from kfasync.errors import BackendError
from kfasync.events import Event, RankInfo
from kfasync.jobs import JobSpec
from kfasync.state import Claim, Grant, JobState, Status, next_attempt, stop_reason

if TYPE_CHECKING:
    from kfasync.backends.local._supervisor import Supervisor

__all__ = ["Runner"]

T = TypeVar("T")

_log = log.get("local.runner")

_WORKER = Path(__file__).parents[2] / "worker" / "__main__.py"


class _Stopped(Exception):
    """A stop was asked for while the job was being prepared."""


class Runner:
    """Runs one job to its end, or to its suspension.

    Args:
        host: The supervisor.
        job: The job's state; its attempt is the one to run.
        launch: What its client sent, where that is at hand; else it is read from the job's directory.
    """

    def __init__(self, host: Supervisor, job: JobState, launch: Launch | None = None) -> None:
        self.uid = job.uid
        self.name = job.name
        self.spec: JobSpec = job.job_spec
        self.attempt = job.attempt
        self.restarts = job.restarts
        self.python = ""
        self.directory: JobDir = host.home.job(job.uid)
        self._host = host
        self._launch_at_hand = launch
        self._deadline_base = job.resumed or job.created
        self._inbox: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._stop_message = ""
        self._started = job.status is Status.RUNNING
        self._timers: list[asyncio.TimerHandle] = []
        self._progress = 0
        self._over = False
        self.finished = asyncio.Event()
        self._unkillable: list[asyncio.Future[Any]] = []
        if job.stop:
            self.request_stop(job.stop, job.stop_message)

    @property
    def world_size(self) -> int:
        return self.spec.num_nodes * (self.spec.num_proc_per_node or 1)

    def request_stop(self, cause: str, message: str = "") -> None:
        """Have the job end; only the first cause counts."""
        if not self._stop.done():
            self._stop_message = message
            self._stop.set_result(cause)

    def event(self, kind: type[Event], **fields: Any) -> Event:
        """An event of this job, now."""
        header: dict[str, Any] = {"place": self._host.place, "job": self.name, "uid": self.uid, "attempt": self.attempt}
        return kind(**header, time=time.time(), **fields)

    async def run(self, adopted: dict[int, RankProcess | Exit] | None = None) -> None:
        """Run attempts until the job has ended or is suspended.

        Args:
            adopted: Ranks that an earlier supervisor started: the first attempt goes on with them.
        """
        self._arm_deadlines()
        try:
            while True:
                try:
                    outcome = await self._attempt(adopted)
                except _Stopped:
                    outcome = Outcome("stopped", self._stop.result())
                except BackendError as error:
                    reason = getattr(error, "reason", "Error")
                    await self._record(self.event(events.JobFailed, reason=reason, message=str(error)))
                    return
                adopted = None
                if not await self._restart(outcome):
                    return
        finally:
            for timer in self._timers:
                timer.cancel()
            self.finished.set()

    def _arm_deadlines(self) -> None:
        loop = asyncio.get_running_loop()
        age = time.time() - self._deadline_base
        if self.spec.active_deadline is not None:
            self._timers.append(
                loop.call_later(max(0.0, self.spec.active_deadline - age), self.request_stop, "deadline")
            )
        if self.spec.start_deadline is not None and not self._started:
            self._timers.append(loop.call_later(max(0.0, self.spec.start_deadline - age), self._start_deadline_passed))

    def _start_deadline_passed(self) -> None:
        if not self._started:
            self.request_stop("start-deadline")

    async def _attempt(self, adopted: dict[int, RankProcess | Exit] | None) -> Outcome:
        launch = self._launch_at_hand or Launch.load(self.directory.launch.read_text())
        try:
            if adopted is not None:
                return await self._take_over(adopted)
            self.python = python = await self._unless_stopped(self._install(launch))
            # Before there is a place for it: a copy may take long, and the place is for what runs.
            await provide_checkpoint(self._host.home, self._host.journal, self.spec, self.directory, self._stop)
            grant = await self._unless_stopped(self._host.admit(self))
            with contextlib.closing(Rendezvous()) as rendezvous:
                return await self._supervise(await self._launch(launch, python, grant, rendezvous.port))
        finally:
            if self._unkillable:
                # Its place stays taken until the kernel lets go of the processes.
                self._host.tasks.create_task(self._release_late())
            else:
                self._host.release(self.uid)

    async def _take_over(self, ranks: dict[int, RankProcess | Exit]) -> Outcome:
        self._host.marks.add(self.directory.attempt(self.attempt), ranks)
        if not self._started:
            # Its supervisor died between the start of the last rank and the record of it.
            await self._record_started(ranks, read_launched(self.directory, self.attempt).devices)
        return await self._supervise(ranks)

    async def _release_late(self) -> None:
        await asyncio.wait(self._unkillable)
        self._host.release(self.uid)

    @property
    def claim(self) -> Claim:
        """What the job needs to be admitted."""
        nodes, asked = self.spec.num_nodes, self.spec.resources
        return Claim(
            cpu=None if asked.cpu is None else asked.cpu * nodes,
            memory=None if asked.memory is None else asked.memory * nodes,
            gpus=(asked.gpus,) * nodes if asked.gpus else (),
            # A study's driver waits for trials: if it took their places, they might never come.
            ranks=0 if self.spec.entry == "study" else self.world_size,
        )

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Do a preparation, unless a stop comes first. What was had by then is returned, for it may hold things."""
        if self._stop.done():
            work.close()
            raise _Stopped
        task = asyncio.create_task(work)
        try:
            waited: set[asyncio.Future[Any]] = {task, self._stop}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if task.cancelled() or (self._stop.done() and task.exception() is not None):
            raise _Stopped  # Nobody needs to know how a preparation failed that was stopped.
        return task.result()

    async def _install(self, launch: Launch) -> str:
        if not launch.install:
            return launch.python
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        reporting = asyncio.create_task(self._report_install(lines))
        try:
            environ = launch.job_environ(self.spec)
            return str(
                await self._host.environments.ensure(
                    launch.python, launch.install, launch.index_urls, environ, lines.put_nowait
                )
            )
        finally:
            lines.put_nowait(None)
            await reporting

    async def _report_install(self, lines: asyncio.Queue[str | None]) -> None:
        while (line := await lines.get()) is not None:
            # An installer may print faster than anybody reads: each event carries what is newest when it is written.
            while not lines.empty():
                if (newer := lines.get_nowait()) is None:
                    await self._pending("Installing", line)
                    return
                line = newer
            await self._pending("Installing", line)

    async def _pending(self, reason: str, message: str) -> None:
        self._progress += 1
        await self._record(self.event(events.JobPending, reason=reason, message=message, ordinal=self._progress))

    async def queued(self, message: str) -> None:
        """Called by the supervisor when the job has to wait for room."""
        await self._pending("Queued", message)

    async def warn(self, reason: str, message: str) -> None:
        """Tell the user something that changes nothing."""
        await self._record(self.event(events.JobWarning, reason=reason, message=message))

    async def _launch(self, launch: Launch, python: str, grant: Grant, port: int) -> dict[int, RankProcess | Exit]:
        environ = launch.job_environ(self.spec)
        key, fresh = self._zygote(launch, python, environ)
        children = await self._children(key)
        processes = {rank: RankProcess.of_child(child) for rank, child in enumerate(children)}
        try:
            await self._become(launch, environ, python, grant, port, children, fresh)
            await self._record_started(processes, grant.devices)
        except Exception:
            for child in children:
                child.dismiss()
            await self._abandon(processes)
            raise
        return dict(processes)

    async def _become(
        self,
        launch: Launch,
        environ: Mapping[str, str],
        python: str,
        grant: Grant,
        port: int,
        children: list[Child],
        fresh: bool,
    ) -> None:
        """Turn the children into the ranks of this attempt."""
        attempt = self.directory.attempt(self.attempt)
        attempt.mkdir(mode=0o700, exist_ok=True)
        nonce = secrets.token_hex(4)
        write_launched(self.directory, self.attempt, nonce, python, grant.devices)
        self._host.marks.add(attempt, range(self.world_size))
        for rank, child in enumerate(children):
            devices = grant.devices[rank // (self.spec.num_proc_per_node or 1)] if grant.devices else ()
            own = rank_environment(self.spec, self.uid, self.attempt, rank, port, devices, self.directory)
            if rank == 0 and (ignored := sorted(self.spec.env.keys() & own.keys())):
                names = ", ".join(ignored)
                await self.warn("EnvIgnored", f"{names} in env: set for each rank, so not taken from there")
            context = rank_context(self.spec, launch, self.uid, self.attempt, rank, nonce, self.directory)
            if fresh:
                context = write_exec_context(context, python, _WORKER)
            await child.become({**context, "env": {**environ, **own}})

    async def _abandon(self, processes: dict[int, RankProcess]) -> None:
        """End what runs before the job is given up: nobody would look after it any more."""
        self._host.marks.remove(self.directory.attempt(self.attempt))
        for process in processes.values():
            process.kill()
        ends = {rank: process.exit for rank, process in processes.items()}
        await asyncio.wait(ends.values(), timeout=UNKILLABLE_AFTER)
        for rank, process in processes.items():
            if process.exit.done():
                await process.end_tree(self._mark(rank))

    def _mark(self, rank: int) -> str:
        """What only processes of this rank have in their environment."""
        return f"KFASYNC_REPORT_FILE={self.directory.rank_file(self.attempt, rank, 'report')}"

    def _zygote(self, launch: Launch, python: str, environ: dict[str, str]) -> tuple[ZygoteKey, bool]:
        """Which zygote serves the job, and whether its ranks must be fresh interpreters after all."""
        if import_environment(environ) == launch.ambient:
            return ZygoteKey(python, launch.preload, launch.ambient), False
        # Set for this job only: an interpreter of its own is cheaper than a zygote that serves one job.
        return ZygoteKey(sys.executable, (), ()), True

    async def _children(self, key: ZygoteKey) -> list[Child]:
        taken: list[Child] = []
        try:
            for _ in range(self.world_size):
                taken.append(await self._unless_stopped(self._host.zygotes.take(key, self._host.tasks)))
            if self._stop.done():
                raise _Stopped
        except BaseException:
            for child in taken:
                child.dismiss()
            raise
        return taken

    async def _record_started(
        self, ranks: Mapping[int, RankProcess | Exit], devices: tuple[tuple[str, ...], ...]
    ) -> None:
        infos = tuple(self._rank_info(rank, ranks[rank], devices) for rank in sorted(ranks))
        self._started = True
        await self._record(self.event(events.JobStarted, ranks=infos))

    def _rank_info(self, rank: int, process: RankProcess | Exit, devices: tuple[tuple[str, ...], ...]) -> RankInfo:
        node, local_rank = divmod(rank, self.spec.num_proc_per_node or 1)
        info = RankInfo(node=node, rank=rank, local_rank=local_rank, devices=devices[node] if devices else ())
        if isinstance(process, Exit):
            return info
        pid, start, boot = process.identity
        return replace(info, pid=pid, start_time=start, boot_id=boot)

    async def _supervise(self, ranks: dict[int, RankProcess | Exit]) -> Outcome:
        """Feed the gang until it has an outcome, and record each end."""
        gang = Gang(self.world_size, self.spec.grace)
        processes = {rank: process for rank, process in ranks.items() if isinstance(process, RankProcess)}
        for rank, process in processes.items():
            process.exit.add_done_callback(partial(self._exit_seen, rank))
        for end in ranks.values():
            if isinstance(end, Exit):
                self._inbox.put_nowait(("ended", end))
        self._stop.add_done_callback(lambda stop: self._inbox.put_nowait(("stop", stop.result())))
        timers: list[asyncio.TimerHandle] = []
        try:
            while True:
                kind, value = await self._inbox.get()
                commands: list[Command] = []
                if kind == "exit":
                    value = await self._rank_exit(value, processes[value])
                if kind in ("exit", "ended"):
                    commands = gang.exited(value)
                elif kind == "stop":
                    commands = gang.stop(value)
                elif kind == "timer":
                    commands = gang.timer(value)
                for command in commands:
                    self._carry_out(command, processes, timers)
                if (outcome := gang.outcome) is not None:
                    self._unkillable = [processes[rank].exit for rank in gang.alive & processes.keys()]
                    return await self._ended(outcome, value if isinstance(value, Exit) else None)
                if isinstance(value, Exit):
                    await self._record(self._exit_event(value))
        except Exception:
            await self._abandon(processes)
            raise
        finally:
            for timer in timers:
                timer.cancel()

    def _exit_seen(self, rank: int, _: object) -> None:
        self._inbox.put_nowait(("exit", rank))

    def _carry_out(
        self, command: Command, processes: dict[int, RankProcess], timers: list[asyncio.TimerHandle]
    ) -> None:
        if isinstance(command, StartTimer):
            loop = asyncio.get_running_loop()
            timers.append(loop.call_later(command.seconds, self._inbox.put_nowait, ("timer", command.name)))
            return
        for rank in command.ranks & processes.keys():
            if isinstance(command, Terminate):
                # On a full disk, or where the job removed its directory, the signal has to be enough.
                with contextlib.suppress(OSError):
                    self.directory.rank_file(self.attempt, rank, "stop").touch()
                processes[rank].terminate()
            elif isinstance(command, Kill):
                processes[rank].kill()

    async def _rank_exit(self, rank: int, process: RankProcess) -> Exit:
        code = process.exit.result()
        out_of_memory = code == -signal.SIGKILL and process.oom_killed
        try:
            async with asyncio.timeout(UNKILLABLE_AFTER):
                await process.end_tree(self._mark(rank))
        except TimeoutError:
            # It hangs in the kernel; the job, whose rank has ended, must not hang with it.
            _log.warning("descendants_unkillable", job=self.name, rank=rank)
        record = self._exit_record(rank)
        if code is None:
            code = record.get("code")
        when = float(record.get("time") or time.time())
        return Exit(rank, code, when, bool(record.get("exception")), out_of_memory)

    def _exit_record(self, rank: int) -> dict[str, Any]:
        return read_exit_record(
            self.directory.rank_file(self.attempt, rank, "exit"), self.directory.rank_file(self.attempt, rank, "error")
        )

    def _exit_event(self, exit_: Exit) -> Event:
        nproc = self.spec.num_proc_per_node or 1
        return self.event(events.RankExited, node=exit_.rank // nproc, rank=exit_.rank, exit_code=exit_.code)

    async def _ended(self, outcome: Outcome, last: Exit | None) -> Outcome:
        """Record the last rank's end together with the job's, in one commit, unless another attempt follows."""
        self._host.marks.remove(self.directory.attempt(self.attempt))
        tail = [self._exit_event(last)] if last is not None else []
        if self._next_delay(outcome) is not None:
            await self._record(*tail)
            return outcome
        await self._record(*tail, self._end_event(outcome))
        return outcome

    def _next_delay(self, outcome: Outcome) -> float | None:
        if outcome.kind != "failed" or outcome.first is None or self._exit_record(outcome.first.rank).get("final"):
            return None
        return next_attempt(self.spec.restart, self.restarts)

    def _end_event(self, outcome: Outcome) -> Event:
        if outcome.kind == "complete":
            return self.event(events.JobCompleted)
        if outcome.kind == "unkillable":
            message = "its processes did not end after SIGKILL; their place stays taken until they do"
            return self.event(events.JobFailed, reason="Unkillable", message=message)
        if outcome.kind == "stopped":
            if outcome.cause == "suspend":
                return self.event(events.JobSuspended)
            reason, message = stop_reason(outcome.cause, self._stop_message)
            return self.event(events.JobFailed, reason=reason, message=message)
        assert outcome.first is not None
        return self._failure(outcome.first)

    def _failure(self, first: Exit) -> Event:
        record = self._exit_record(first.rank)
        exception = str(record.get("exception", ""))
        reason, message = str(record.get("reason") or "Error"), exception
        if first.out_of_memory:
            reason, message = "OOMKilled", "the kernel killed it because memory ran out"
        elif first.code is None:
            reason, message = "Lost", "it ended while no supervisor was there to see how, and left no record"
        elif not exception and first.code < 0:
            message = f"ended by {_signal_name(-first.code)}"
        elif not exception:
            message = f"exit code {first.code}"
        return self.event(
            events.JobFailed,
            reason=reason,
            message=message,
            exit_code=first.code,
            node=first.rank // (self.spec.num_proc_per_node or 1),
            rank=first.rank,
            exception=exception,
            traceback=str(record.get("traceback", "")),
            last_lines=last_lines(self.directory.attempt(self.attempt), first.rank),
        )

    async def _restart(self, outcome: Outcome) -> bool:
        """Begin the next attempt if the policy allows one. Returns whether there is one."""
        delay = self._next_delay(outcome)
        if delay is None:
            if not self._over:
                await self._record(self._end_event(outcome))
            return False
        assert outcome.first is not None
        failure = self._failure(outcome.first)
        assert isinstance(failure, events.JobFailed)
        self.attempt += 1
        self.restarts += 1
        self._inbox = asyncio.Queue()
        message = f"attempt {self.attempt - 1} failed: {failure.reason}: {failure.message}"
        await self._record(self.event(events.JobRestarting, message=message, delay=delay))
        _log.info("job_restarting", job=self.name, attempt=self.attempt, delay=delay)
        await asyncio.wait({self._stop}, timeout=delay)
        return True

    async def _record(self, *happened: Event) -> None:
        self._over = self._over or any(
            event.key == "end" or isinstance(event, events.JobSuspended) for event in happened
        )
        await self._host.record(*happened)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # A real-time signal: Python names only the first and the last of them.
        return f"signal {number}"
