"""What the commands do, as coroutines on an open client."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfasync import settings
from kfasync.cli._output import Output, age, event_record, event_text, json_line, line, message, plain, table
from kfasync.cli._run import ERROR, Command, failure_code
from kfasync.errors import InvalidSpecError, JobFailedError, JobNotFoundError
from kfasync.state import Journal

if TYPE_CHECKING:
    from kfasync.backends.base import LogLine
    from kfasync.engine import JobHandle
    from kfasync.state import JobState
    from kfasync.trainer import TrainJob

__all__ = ["control", "events", "logs", "parse_env", "ps", "submit", "wait"]

_ENDED = frozenset({"Complete", "Failed"})
_PAGE = 1000


async def ps(command: Command, *, everything: bool, output: Output) -> int:
    """List the jobs, the newest last."""
    jobs = [job for job in await command.client.list_jobs() if everything or job.status not in _ENDED]
    if output == "json":
        json_line([_job_record(job) for job in jobs])
    else:
        rows = [
            (job.name, job.status, job.reason or "-", str(job.num_nodes), age(job.creation_timestamp), job.message)
            for job in jobs
        ]
        table(("NAME", "STATUS", "REASON", "NODES", "AGE", "MESSAGE"), rows)
    return 0


def _job_record(job: TrainJob) -> dict[str, Any]:
    record: dict[str, Any] = plain(job)
    record["runtime"] = job.runtime.name
    record["created"] = record.pop("creation_timestamp")
    return record


def _state_record(state: JobState) -> dict[str, Any]:
    shown = ("name", "uid", "place", "status", "reason", "message", "attempt", "created", "started", "finished")
    record = {key: getattr(state, key) for key in shown}
    found: dict[str, Any] = plain({**record, "failure": state.failure, "metrics": state.metrics})
    return found | {"cursor": state.cursor}


async def logs(
    command: Command, name: str, *, step: str, follow: bool, tail: int | None, since: str | None, output: Output
) -> int:
    """Print a job's output; both of its streams are data here."""
    handle = await command.client.attach(name)
    if follow:
        command.following = name
    lines = handle.logs(None if step == "all" else step, follow=follow, tail=tail, since=_position(since))
    async with contextlib.aclosing(lines):
        async for found in lines:
            _print_line(found, merged=step == "all", output=output)
    return 0


def _position(since: str | None) -> str | float | None:
    try:
        return None if since is None else float(since)
    except ValueError:
        return since


def _print_line(found: LogLine, *, merged: bool, output: Output) -> None:
    if output == "json":
        json_line(found)
    else:
        line(f"[node-{found.node}] {found.text}" if merged else found.text)


async def events(command: Command, name: str | None, *, follow: bool, since: int | None, output: Output) -> int:
    """Print what happened, and with ``follow`` what happens."""

    def show(event: Any) -> None:
        if output == "json":
            json_line(event_record(event))
        else:
            line(event_text(event))

    if not follow:
        uid = (await command.client.attach(name)).uid if name else None
        # The journal has only those numbers that somebody has read from the jobs' output so far.
        for each in [name] if name else [job.name for job in await command.client.list_jobs()]:
            with contextlib.suppress(JobNotFoundError):
                await command.client.get_job_metrics(each)
        await _recorded(show, since or 0, uid)
        return 0
    if name:
        command.following = name
        # Of one job, the whole story is what a reader wants; of all jobs, what comes.
        since = since or 0
    async with contextlib.aclosing(command.client.events(since, name)) as found:
        async for event in found:
            show(event)
    return 0


async def _recorded(show: Any, since: int, uid: str | None) -> None:
    """Everything in the journal: that of deleted jobs too, and no supervisor is started for it."""
    async with contextlib.AsyncExitStack() as stack:
        journal = await Journal.open(settings.load().home / "journal.sqlite3")
        stack.push_async_callback(journal.aclose)
        while page := await journal.events(since, uid=uid, limit=_PAGE):
            for event in page:
                show(event)
            since = page[-1].cursor


async def wait(command: Command, name: str, *, timeout: float | None, output: Output) -> int:
    """Wait for the job's end; the exit code is the job's."""
    return await _end(command, await command.client.attach(name), timeout, output)


async def _end(command: Command, handle: JobHandle, timeout: float | None, output: Output) -> int:
    command.following = handle.name
    try:
        state, code = await handle.wait(timeout=timeout), 0
    except JobFailedError as error:
        message(f"kfasync: {error}")
        state, code = await handle.state(), failure_code(error)
    if output == "json":
        record = _state_record(state)
        with contextlib.suppress(JobNotFoundError):  # Somebody deleted it right behind its end.
            # The state has only what somebody has read from the job's output so far.
            record["metrics"] = plain(await command.client.get_job_metrics(handle.name))
        json_line(record)
    elif not code:
        line(f"{state.name} {state.status.value}")
    return code


async def control(command: Command, action: str, names: Sequence[str], *, output: Output) -> int:
    """Cancel, suspend, resume or delete; all names are looked up before anything is done."""
    client = command.client
    handles = [await client.attach(name) for name in names]
    records, code = [], 0
    for handle in handles:
        state = await handle.state()
        idle = state.terminal and action != "delete"
        if idle:
            message(f"kfasync: job {handle.name} is {state.status.value}: nothing to {action}")
            # To cancel twice is no mistake; to resume what has ended is one.
            code = code if action == "cancel" else ERROR
        else:
            await getattr(handle, action)()
            if output == "text":
                line(handle.name)
        records.append({"name": handle.name, "uid": handle.uid, "requested": None if idle else action})
    if output == "json":
        json_line(records)
    return code


async def submit(command: Command, script: Path, keywords: dict[str, Any], *, attached: bool, output: Output) -> int:
    """Submit a script; attached, print its output as it comes and leave with its exit code."""
    handle = await command.client.submit(script=script, **keywords)
    if not attached:
        if output == "json":
            json_line({"name": handle.name, "uid": handle.uid})
        else:
            line(handle.name)
        return 0
    command.following = handle.name
    message(f"job {handle.name} was submitted")
    await _stream(handle, output)
    return await _end(command, handle, None, output)


async def _stream(handle: JobHandle, output: Output) -> None:
    several = (await handle.state()).job_spec.num_nodes > 1
    async with contextlib.aclosing(handle.logs(None, follow=True)) as lines:
        async for found in lines:
            _print_line(found, merged=several, output=output)


def parse_env(pairs: Sequence[str]) -> dict[str, str]:
    """``NAME=value`` pairs as a dict.

    Raises:
        InvalidSpecError: One has no ``=``.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InvalidSpecError(f"--env {pair!r} must be NAME=value")
        found[name] = value
    return found
