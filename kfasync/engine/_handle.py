"""JobHandle: one job, followed and controlled. Its `wait` is the only one there is."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kfasync.backends.base import LogLine, LogQuery
from kfasync.engine._backoff import insist
from kfasync.engine._bus import ENDS
from kfasync.engine._core import Core
from kfasync.engine._logs import read_log
from kfasync.errors import (
    InvalidSpecError,
    JobFailedError,
    JobNotFoundError,
    KfasyncError,
    ResultError,
    WaitTimeoutError,
)
from kfasync.events import Event, JobDeleted, MetricReported
from kfasync.state import Failure, JobState, Status, reduce

__all__ = ["JobHandle"]


class JobHandle:
    """One job of one engine, by its identity: after a delete the handle does not pass to a new job of the same name.

    Every method raises `JobNotFoundError` once the job was deleted, `ClientClosedError` and `WrongLoopError` as the
    engine does.

    Example:
        >>> handle = await engine.submit(spec, payload)  # doctest: +SKIP
        >>> (await handle.wait(timeout=60)).status  # doctest: +SKIP
        'Complete'
    """

    __slots__ = ("_name", "_ready", "_uid")

    def __init__(self, ready: Callable[[], Awaitable[Core]], name: str, uid: str) -> None:
        self._ready = ready
        self._name = name
        self._uid = uid

    def __repr__(self) -> str:
        return f"JobHandle(name={self._name!r}, uid={self._uid!r})"

    @property
    def name(self) -> str:
        """The job's name."""
        return self._name

    @property
    def uid(self) -> str:
        """The job's identity."""
        return self._uid

    async def state(self) -> JobState:
        """What is true of the job now."""
        core = await self._ready()

        async def query() -> list[JobState]:
            return [await core.known(self._uid, self._name)]

        return (await core.read(query))[0]

    async def wait(
        self,
        status: Collection[str] = frozenset({Status.COMPLETE}),
        timeout: float | None = None,
        *,
        on_change: Callable[[JobState], object] | None = None,
    ) -> JobState:
        """Wait until the job reaches one of the given statuses, or its end.

        Created is reached from the start. A job that completes has passed every other status, so it ends the wait. A
        suspended job has not ended: it may run again.

        Args:
            status: Wanted statuses, ``Created``, ``Running``, ``Suspended``, ``Complete`` or ``Failed``.
            timeout: Seconds, by a monotonic clock; None waits for ever. The present state is looked at in any case.
            on_change: Called in the event loop with the present state and then at each change of status or reason,
                the end included.

        Returns:
            The job's state when it was reached.

        Raises:
            InvalidSpecError: No such status, or a timeout that is no number of at least 0.
            JobFailedError: The job failed, and Failed was not wanted.
            JobNotFoundError: The job was deleted.
            WaitTimeoutError: The timeout passed; the job goes on.
            BackendError: The place can't be watched any more.
        """
        wanted = _statuses(status)
        if timeout is not None and not (_is_number(timeout) and timeout >= 0):
            raise InvalidSpecError(f"timeout must be 0 or more seconds, or None, not {timeout!r}")
        limit = None if timeout in (None, math.inf) else asyncio.get_running_loop().time() + timeout
        last: JobState | None = None
        try:
            async with asyncio.timeout(None) as clock, contextlib.aclosing(self.changes()) as states:
                async for last in states:
                    clock.reschedule(limit)
                    if on_change is not None:
                        on_change(last)
                    if _reached(last, wanted):
                        return last
        except TimeoutError:
            if last is None or not clock.expired():
                raise
            raise WaitTimeoutError(_late(last, timeout, wanted)) from None
        raise JobNotFoundError(self._name)

    async def changes(self) -> AsyncGenerator[JobState, None]:
        """The present state, then the state at each change of status or reason; ends behind the job's end."""
        core = await self._ready()
        with core.tail.subscribe(self._uid) as events:
            # Read behind the subscription's start, so that nothing can fall between the row and the events.
            state = await core.known(self._uid, self._name)
            if not state.terminal:
                core.need_events()
            yield state
            while not state.terminal:
                event = await events.get()
                if event is None or event.cursor <= state.cursor:
                    continue
                before, state = state, reduce(state, event)
                if state.deleted:
                    raise JobNotFoundError(self._name, core.place)
                if (state.status, state.reason) != (before.status, before.reason):
                    yield state

    async def logs(
        self,
        step: str | None = "node-0",
        *,
        rank: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        since: str | float | None = None,
        attempt: int | None = None,
        streams: Sequence[str] = ("stdout", "stderr"),
    ) -> AsyncGenerator[LogLine, None]:
        """The job's output.

        Args:
            step: ``node-0``, …, or None for all nodes merged.
            rank: One global rank, or None for all ranks of the step.
            follow: Whether to wait for more until the job has ended.
            tail: Only the last so many lines of what is there now.
            since: The cursor of an earlier `LogLine`, or a Unix time in seconds.
            attempt: One attempt, or None for the latest.
            streams: Which of ``stdout``, ``stderr`` and ``report``.

        Raises:
            InvalidSpecError: An argument names what can't exist.
        """
        core = await self._ready()
        query = LogQuery(
            step=step, rank=rank, follow=follow, tail=tail, since=since, attempt=attempt, streams=tuple(streams)
        )
        end = _End()
        with core.tail.listening(end, self._uid):
            state = await core.known(self._uid, self._name)
            _check_query(query, state)
            if state.terminal:
                end.done.set()
            elif follow:
                core.need_events()
            async with contextlib.aclosing(read_log(core.backend, state, query, end.done)) as lines:
                async for line in lines:
                    yield line
            if end.error is not None and follow:
                raise end.error.with_traceback(None)

    async def metrics(self) -> AsyncGenerator[MetricReported, None]:
        """Every report of numbers, from the first one on; ends when the job has ended and all was read."""
        core = await self._ready()
        with core.tail.subscribe(self._uid, since=0) as events:
            state = await core.known(self._uid, self._name)
            if not state.terminal:
                core.need_events()
            async with core.collector.feeding(events, until_read=True):
                while (event := await events.get()) is not None:
                    if isinstance(event, MetricReported):
                        yield event

    async def cancel(self, *, cause: str = "cancel", message: str = "") -> None:
        """Have the job stopped; it ends as Failed(Cancelled). Nothing happens to a job that has ended.

        Returns when the place has taken the request; `wait` tells of the end.

        Args:
            cause: ``cancel``, or ``prune`` for a trial that is not worth going on: it ends as Failed(Pruned).
            message: What a person needs to know of it.
        """
        await self._ask(lambda core, state: core.backend.cancel(state, cause=cause, message=message))

    async def suspend(self) -> None:
        """Have the job stopped with grace, to be resumed later. Nothing happens to a job that has ended."""
        await self._ask(lambda core, state: core.backend.suspend(state))

    async def resume(self) -> None:
        """Have a suspended job start again as a new attempt. Nothing happens to a job that has ended."""
        await self._ask(lambda core, state: core.backend.resume(state))

    async def _ask(self, request: Callable[[Core, JobState], Awaitable[None]]) -> None:
        core = await self._ready()
        state = await core.known(self._uid, self._name)
        if not state.terminal:
            core.need_events()
            await insist("request", lambda: request(core, state))

    async def delete(self) -> None:
        """Stop the job if it runs and remove everything of it; its name is free when this returns. May be repeated."""
        core = await self._ready()
        with core.tail.subscribe(self._uid) as events:
            state = await core.journal.job_by_uid(self._uid)
            if state is None or state.deleted:
                return
            core.need_events()
            await insist("delete", lambda: core.backend.delete(state))
            if not core.backend.journals:
                deleted = JobDeleted(
                    place=state.place, job=state.name, uid=state.uid, attempt=state.attempt, time=time.time()
                )
                await core.journal.append([deleted])
            while not isinstance(await events.get(), JobDeleted):
                continue

    async def result(self) -> Any:
        """Wait for the end and return what rank 0's function returned.

        Raises:
            JobFailedError: The job failed.
            ResultError: There is no value, or it can't be had.
        """
        values = await self._results(0)
        if 0 not in values:
            raise ResultError(f"job {self._name!r} is Complete, but rank 0 left no result")
        return values[0]

    async def results(self) -> dict[int, Any]:
        """Wait for the end and return what the function returned, by global rank; raises as `result` does."""
        return await self._results(None)

    async def _results(self, rank: int | None) -> dict[int, Any]:
        state = await self.wait()
        core = await self._ready()
        return await insist("results", lambda: core.backend.results(state, rank))

    async def files(self, node: int = 0) -> list[Path]:
        """The files that the job left in one node's working directory, sorted.

        Raises:
            InvalidSpecError: The job has no such node.
        """
        core = await self._ready()
        state = await core.known(self._uid, self._name)
        nodes = state.job_spec.num_nodes
        if not _is_count(node) or node >= nodes:
            raise InvalidSpecError(f"job {self._name!r} has the nodes 0 to {nodes - 1}, not {node!r}")
        root = await core.backend.files(state, node)
        return await asyncio.to_thread(lambda: sorted(path for path in root.rglob("*") if path.is_file()))

    async def checkpoint(self) -> Path:
        """What the job's code knows as `kfasync.checkpoint_dir`, as a directory that this process can read.

        It is not there if the code never asked for it.

        Raises:
            UnsupportedError: Jobs of this place have no such directory.

        Example:
            >>> model = torch.load(await handle.checkpoint() / "model.pt")  # doctest: +SKIP
        """
        core = await self._ready()
        return await core.backend.checkpoint(await core.known(self._uid, self._name))


class _End:
    """Tells a log stream that the job has ended; a listener of the tail."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.error: KfasyncError | None = None

    def push(self, event: Event) -> None:
        if isinstance(event, ENDS):
            self.done.set()

    def fail(self, error: KfasyncError) -> None:
        self.error = error
        self.done.set()


def _statuses(status: Collection[str]) -> frozenset[Status]:
    try:
        given = {status} if isinstance(status, str) else set(status)
    except TypeError:
        given = set()
    known = {member.value for member in Status}
    if not given or not given <= known:
        raise InvalidSpecError(f"status must name some of {', '.join(sorted(known))}; not {status!r}")
    return frozenset(map(Status, given))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _check_query(query: LogQuery, state: JobState) -> None:
    """Refuse what no place can answer; the place knows of steps, ranks and its own cursors."""
    tail, since, attempt = query.tail, query.since, query.attempt
    if tail is not None and not _is_count(tail):
        raise InvalidSpecError(f"tail={tail!r}: a number of lines is 0 or more")
    if not (since is None or isinstance(since, str) or (_is_number(since) and math.isfinite(since))):
        raise InvalidSpecError(f"since={since!r}: give the cursor of a line, or a Unix time in seconds")
    # Whoever follows a job that may run again can wait for the attempt.
    coming = query.follow and not state.terminal
    if attempt is not None and not (_is_count(attempt) and attempt > 0 and (coming or attempt <= state.attempt)):
        raise InvalidSpecError(f"job {state.name!r} has the attempts 1 to {state.attempt}, not {attempt!r}")


def _late(state: JobState, timeout: float | None, wanted: frozenset[Status]) -> str:
    told, name = state.status.value, state.name
    if state.reason not in ("", told):
        told += f" ({state.reason})"
    next_step = "it goes on"
    if state.status is Status.SUSPENDED:
        next_step = f"resume it with client.resume({name!r}) or kfasync resume {name}"
    return f"job {name!r} is {told} after {timeout} s, not {' or '.join(sorted(wanted))}; {next_step}"


def _reached(state: JobState, wanted: frozenset[Status]) -> bool:
    if state.status in wanted:
        return True
    if state.status is Status.FAILED:
        failure = state.failure or Failure()
        raise JobFailedError(
            state.name,
            reason=state.reason,
            message=state.message,
            exit_code=failure.exit_code,
            node=failure.node,
            rank=failure.rank,
            exception=failure.exception,
            traceback=failure.traceback,
            last_lines=failure.last_lines,
        )
    return state.status is Status.COMPLETE or Status.CREATED in wanted
