"""One job of a fake place: its ranks, what stops them, and the events that tell of it."""

from __future__ import annotations

import functools
import inspect
import shutil
import traceback
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kfasync.backends.base import LogLine, Submission
from kfasync.errors import UnsupportedError
from kfasync.events import (
    Event,
    Gap,
    JobCompleted,
    JobFailed,
    JobPending,
    JobRestarting,
    JobResumed,
    JobStarted,
    JobSuspended,
    RankExited,
    RankInfo,
    StepChanged,
    StopRequested,
)
from kfasync.state import next_attempt, stop_reason
from kfasync.testing._clock import Timer, VirtualClock
from kfasync.testing._script import FakeOutOfMemory, FakeRank, FakeScript

if TYPE_CHECKING:
    from kfasync.jobs import JobSpec

__all__ = ["FakeJob"]

_SIGTERM, _SIGKILL = -15, -9


class _World(Protocol):
    """What a job needs of the place it is in."""

    @property
    def clock(self) -> VirtualClock: ...
    @property
    def files(self) -> Path | None: ...
    @property
    def place(self) -> str: ...
    def deliver(self, event: Event) -> None: ...
    def notify(self) -> None: ...
    def expire(self, uid: str) -> None: ...
    def named(self, name: str) -> FakeJob | None: ...


class FakeJob:
    """A job as the fake place knows it. Everything here is synchronous: time is what makes it move.

    Attributes:
        uid: Its identity.
        spec: What was submitted.
        attempt: The present attempt.
        env: Its variables, with the values of secrets.
        lines: Everything its ranks printed and reported.
        results: What ranks returned, by rank.
        history: Every event of it, in order.
        ended: Whether its state is terminal.
    """

    def __init__(self, world: _World, submission: Submission, script: FakeScript, kwargs: Mapping[str, Any]) -> None:
        self.world = world
        self.uid = submission.uid
        self.spec: JobSpec = submission.spec
        self.env = {k: v if isinstance(v, str) else submission.secrets.get(k, "") for k, v in self.spec.env.items()}
        self.attempt = 1
        self.lines: list[LogLine] = []
        self.results: dict[int, object] = {}
        self.history: list[Event] = []
        self.ended = False
        self.seen: set[str] = set()
        self._script = script
        self._kwargs = kwargs
        self._ranks: list[FakeRank] = []
        self._stop = ""
        self._suspended = False
        self._failure: dict[str, Any] | None = None
        self._running = False
        self._restarts = 0
        self._gaps = 0
        self._timers: list[Timer] = []
        self._deadlines: dict[str, Timer] = {}

    def queue(self) -> None:
        """Have the attempt start when its time comes."""
        self._stop, self._suspended, self._failure, self._ranks = "", False, None, []
        deadlines = ((self.spec.active_deadline, "deadline"), (self.spec.start_deadline, "start-deadline"))
        for seconds, cause in deadlines:
            if seconds is not None:
                self._deadlines[cause] = self.world.clock.call_later(seconds, functools.partial(self.stop, cause))
        if self._script.pending:
            self._emit(JobPending, reason=self._script.pending, message=self._script.message)
        else:
            self._later(self._script.start_after, self._start)

    def stop(self, cause: str) -> None:
        """Ask for the end; ``cause`` is that of `StopRequested`. Nothing happens after the end, or a second time."""
        if self.ended or self._stop == cause or (self._suspended and cause not in ("cancel", "prune")):
            return
        if self._stop != "cancel":
            self._stop = cause
            self._emit(StopRequested, cause=cause)
        self._stop_ranks()

    def resume(self) -> None:
        """Start a suspended job again; nothing happens to another one."""
        if self._suspended and not self.ended:
            self.attempt += 1
            self._emit(JobResumed)
            self.queue()

    def kill(self) -> None:
        """Be gone at once, without a word: what `delete` does."""
        self._drop_timers()
        self._drop_deadline("deadline", "start-deadline")
        self.ended = True
        for rank in self._ranks:
            self._close(rank)

    def kill_rank(self, number: int) -> None:
        """End a rank of the present attempt as SIGKILL from outside does."""
        for rank in list(self._ranks):
            if rank.rank == number:
                self._exit(rank, _SIGKILL, message="it was killed by SIGKILL")

    def present(self) -> list[Event]:
        """The events that describe the present attempt, after a `Gap` where older ones were never seen by anybody."""
        if any(event.key not in self.seen for event in self.history if event.attempt != self.attempt):
            self.seen.update(event.key for event in self.history if event.attempt != self.attempt)
            self._gaps += 1
            gap = self._event(Gap, what="attempts", message="earlier attempts were not watched", ordinal=self._gaps)
        else:
            gap = None
        now = [event for event in self.history if event.attempt == self.attempt]
        return [gap, *now] if gap is not None else now

    def output(self, rank: FakeRank, stream: str, text: str) -> None:
        """Record what a rank printed, line by line."""
        position = self._written(rank, stream)
        for line in text.split("\n"):
            where = {"node": rank.node, "rank": rank.rank, "attempt": rank.attempt, "position": position}
            cursor = str(len(self.lines) + 1)
            self.lines.append(LogLine(text=line, stream=stream, time=self.world.clock.time(), cursor=cursor, **where))
            position += len(line.encode()) + 1
        self.world.notify()

    def directory(self, node: int) -> Path:
        """The working directory of a node; made when it is first asked for."""
        return self._directory(f"node-{node}")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint directory; made when it is first asked for."""
        return self._directory("checkpoint")

    def _directory(self, name: str) -> Path:
        if self.world.files is None:
            raise UnsupportedError("this fake place has no files: give FakeWorld a directory")
        path = self.world.files / self.uid / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _no_checkpoint(self) -> str:
        """Take the checkpoint that the job goes on from, once; says what is in the way."""
        name = self.spec.checkpoint_from
        if name is None or self.world.files is None or any(self.checkpoint.iterdir()):
            return ""
        source = self.world.named(name)
        if source is None or not source.ended:
            return f"checkpoint_from={name!r}: that job is not there, or has not ended"
        if not any(source.checkpoint.iterdir()):
            return f"checkpoint_from={name!r}: that job left no checkpoint"
        shutil.copytree(source.checkpoint, self.checkpoint, symlinks=True, dirs_exist_ok=True)
        return ""

    def _written(self, rank: FakeRank, stream: str) -> int:
        for line in reversed(self.lines):
            if (line.attempt, line.rank, line.stream) == (rank.attempt, rank.rank, stream):
                return line.position + len(line.text.encode()) + 1
        return 0

    def _start(self) -> None:
        if missing := self._no_checkpoint():
            self._end(JobFailed, "Failed", reason="NoCheckpoint", message=missing)
            return
        per_node = self.spec.num_proc_per_node or 1
        for node in range(self.spec.num_nodes):
            self._emit(StepChanged, step=f"node-{node}", status="Running", host=f"{self.spec.name}-node-{node}")
            self._ranks += [FakeRank(self, node, local, per_node) for local in range(per_node)]
        self._running = True
        self._drop_deadline("start-deadline")
        infos = (RankInfo(node=r.node, rank=r.rank, local_rank=r.local_rank) for r in self._ranks)
        self._emit(JobStarted, ranks=tuple(infos))
        for rank in self._ranks:
            if not rank._exited:
                self._run(rank, functools.partial(self._launch, rank))

    def _launch(self, rank: FakeRank) -> float | None:
        rank._script = _as_generator(self._script.run, rank, self._kwargs)
        return next(rank._script)

    def _run(self, rank: FakeRank, step: Callable[[], float | None]) -> None:
        """Let one rank go on until it waits or ends."""
        try:
            wait = step()
            while wait is None and rank._stopped:
                assert rank._script is not None
                wait = next(rank._script)
        except StopIteration as end:
            self.results[rank.rank] = end.value
            self._exit(rank, 0)
        except FakeOutOfMemory as error:
            limit = f"the memory limit of {error.limit} bytes was reached"
            self._exit(rank, _SIGKILL, reason="OOMKilled", message=limit)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            if isinstance(error.code, str):
                self.output(rank, "stderr", error.code)
            self._exit(rank, code, message=f"exit code {code}")
        except Exception as error:
            text = "".join(traceback.format_exception(_without_our_frames(error))).rstrip("\n")
            said = f"{type(error).__name__}: {error}"
            self.output(rank, "stderr", text)
            self._exit(rank, 1, message=said, exception=said, traceback=text)
        else:
            rank._waits_for_stop = wait is None
            if wait is None:
                rank._heeds_stop = True
            else:
                self._later(wait, functools.partial(self._continue, rank))

    def _continue(self, rank: FakeRank) -> None:
        script = rank._script
        if script is not None and not rank._exited:
            self._run(rank, functools.partial(next, script))

    def _exit(self, rank: FakeRank, code: int, *, reason: str = "Error", **failure: str) -> None:
        if rank._exited:
            return
        self._close(rank)
        self._emit(RankExited, node=rank.node, rank=rank.rank, exit_code=code)
        if code != 0 and self._failure is None and not self._stop:
            last = tuple(x.text for x in self.lines if x.rank == rank.rank and x.stream != "report")[-20:]
            where = {"node": rank.node, "rank": rank.rank, "exit_code": code, "last_lines": last}
            self._failure = {"reason": reason, **failure, **where}
            self._stop_ranks()
        if self._running and all(r._exited for r in self._ranks):
            self._finish()

    def _close(self, rank: FakeRank) -> None:
        rank._exited = True
        # A script that failed or returned can't be closed from within itself, and has nothing left to close.
        if rank._script is not None and inspect.getgeneratorstate(rank._script) != inspect.GEN_RUNNING:
            rank._script.close()

    def _stop_ranks(self) -> None:
        """SIGTERM to the group, and SIGKILL when its grace is over."""
        alive = [rank for rank in self._ranks if not rank._exited]
        if not alive and not self.ended and self._stop:
            self._finish()
            return
        for rank in alive:
            rank._stopped = True
            if rank._heeds_stop:
                self._wake(rank)
            elif not rank._ignores_sigterm:
                self._exit(rank, _SIGTERM)
        if not all(rank._exited for rank in alive):
            self._later(self.spec.grace, functools.partial(self._kill_ranks, alive))

    def _wake(self, rank: FakeRank) -> None:
        if rank._script is not None and rank._waits_for_stop:
            self._run(rank, functools.partial(next, rank._script))

    def _kill_ranks(self, ranks: list[FakeRank]) -> None:
        for rank in ranks:
            self._exit(rank, _SIGKILL)

    def _finish(self) -> None:
        """Every rank has ended: decide what that means."""
        self._running = False
        self._drop_timers()
        if self._stop == "suspend":
            self._suspended = True
            self._drop_deadline("deadline", "start-deadline")
            self._emit(JobSuspended)
        elif self._stop:
            reason, message = stop_reason(self._stop, "")
            self._end(JobFailed, "Failed", reason=reason, message=message)
        elif self._failure is None:
            self._end(JobCompleted, "Succeeded")
        elif (delay := next_attempt(self.spec.restart, self._restarts)) is not None:
            self._restarts += 1
            self.attempt += 1
            self._emit(JobRestarting, message=self._failure.get("message", ""), delay=delay)
            self._failure, self._ranks = None, []
            self._later(delay, self._start)
        else:
            self._end(JobFailed, "Failed", **self._failure)

    def _end(self, end: type[Event], step: str, **fields: Any) -> None:
        self.ended = True
        self._drop_deadline("deadline", "start-deadline")
        for node in range(self.spec.num_nodes):
            self._emit(StepChanged, step=f"node-{node}", status=step)
        self._emit(end, **fields)
        if self.spec.ttl is not None:
            self.world.clock.call_later(self.spec.ttl, functools.partial(self.world.expire, self.uid))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append(self.world.clock.call_later(seconds, call))

    def _drop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _drop_deadline(self, *causes: str) -> None:
        for cause in causes:
            if cause in self._deadlines:
                self._deadlines.pop(cause).cancel()

    def _event(self, kind: type[Event], **fields: Any) -> Event:
        now = self.world.clock.time()
        return kind(place=self.world.place, job=self.spec.name, uid=self.uid, attempt=self.attempt, time=now, **fields)

    def _emit(self, kind: type[Event], **fields: Any) -> None:
        event = self._event(kind, **fields)
        self.history.append(event)
        self.world.deliver(event)
        self.world.notify()


def _as_generator(
    run: Callable[..., object], rank: FakeRank, kwargs: Mapping[str, Any]
) -> Generator[float | None, None, object]:
    outcome = run(rank, **kwargs)
    return (yield from outcome) if inspect.isgenerator(outcome) else outcome


def _without_our_frames(error: Exception) -> Exception:
    """The error with the traceback that a real rank would print: from the user's function on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(trace)
