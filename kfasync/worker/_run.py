"""One rank, from its claim to its end."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import time
from types import ModuleType
from typing import Any, NoReturn

from . import _result, _server
from ._end import Outcome, attempt, finish, write_private
from ._linger import hold, linger
from ._load import load

__all__ = ["PROTOCOL", "run_rank"]

#: Version of the contexts that `run_rank` understands and the files that it leaves.
PROTOCOL = 1

FENCED = 125  # exit code of a rank that another one, or a supervisor, came before


def _proc(name: str) -> bytes:
    """What Linux says; nothing elsewhere."""
    try:
        fd = os.open("/proc/" + name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


_BOOT_ID = _proc("sys/kernel/random/boot_id").decode().strip()  # here, so that a zygote reads it for all its ranks


def run_rank(ctx: dict[str, Any]) -> NoReturn:
    """Be this rank: run the user's function or script, leave what it returned and how it ended, and exit.

    Args:
        ctx: ``payload`` (path), ``kind`` (``function`` or ``script``), ``filename``, ``argv``, ``path`` (directories
            for sys.path), ``attempt``, ``rank``, ``pid_file``, ``exit_file``, ``result_file`` and ``private`` (what the
            paths of its private files begin with);
            optionally ``python``, the version that the payload was made with. The working directory, the environment
            and the standard streams are set already.
    """
    if ctx.get("pid_file") and not _claim(ctx["pid_file"]):
        os._exit(FENCED)
    main = _become_main(ctx)
    _serve_progress(ctx)
    outcome = _run(ctx, main)
    if not outcome.code and ctx.get("pid_file"):
        linger(ctx)
    finish(outcome, ctx.get("exit_file") or "")


def _claim(path: str) -> bool:
    """Say which process this rank is; False when somebody has said otherwise. Whole at once: a link, not a write."""
    pid = os.getpid()
    own = f"{path}.{pid}"
    write_private(own, json.dumps({"pid": pid, "start_time": _start_time(pid), "boot_id": _BOOT_ID}).encode())
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(own)
    hold(path)
    return True


def _start_time(pid: int) -> int:
    # Field 22, in clock ticks since boot. The second, the name, may hold anything; the rest begins behind its ')'.
    fields = _proc(f"{pid}/stat").rpartition(b")")[2].split()
    return int(fields[19]) if fields else 0


def _become_main(ctx: dict[str, Any]) -> ModuleType:
    """The state of the interpreter that a program's first line sees."""
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    sys.argv[:] = [ctx.get("filename") or "", *ctx.get("argv", ())]
    first = list(ctx.get("path", ()))
    sys.path[:] = first + [entry for entry in sys.path if entry not in first]
    for stream in (sys.stdout, sys.stderr):
        # Somebody follows: a line is worth more than a full buffer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    # A forked rank inherits the directory listings of its zygote.
    importlib.invalidate_caches()
    return main


def _serve_progress(ctx: dict[str, Any]) -> None:
    if os.environ.get("KUBEFLOW_TRAINER_SERVER_URL") or not ctx.get("private"):
        return
    name = f"progress-{ctx.get('attempt', 1)}-{ctx.get('rank', 0)}.token"
    try:
        _server.start(ctx["private"] + name)
    except OSError as e:
        print(f"kfasync: no progress server in this rank: {e}", file=sys.stderr)


def _run(ctx: dict[str, Any], main: ModuleType) -> Outcome:
    """Run the user's code. No reference to its exception or its frames is left when this returns."""
    call, problem = attempt(load, ctx, main)
    if problem is not None:
        # A script that does not compile fails as it would have under `python script.py`.
        outcome = Outcome.of(problem, time.time())
        if ctx["kind"] != "script":
            outcome.reason, outcome.exception = "PayloadIncompatible", _incompatible(ctx, outcome.exception)
        return outcome
    value, problem = attempt(call)
    ended = time.time()
    if problem is None and hasattr(value, "__await__"):
        value, problem = attempt(_await, value)
        ended = time.time()
    if problem is not None:
        outcome = Outcome.of(problem, ended)
        if not outcome.code:
            outcome.result_error = f"the {ctx['kind']} ended by sys.exit() before it returned"
        return outcome
    outcome = Outcome(time=ended)
    if ctx.get("result_file") or os.environ.get("KFASYNC_REPORT") == "stdout":
        _, problem = attempt(_result.keep, value, ctx.get("result_file") or "")
        if problem is not None:
            outcome.result_error = f"{type(problem).__name__}: {problem}"
    return outcome


def _await(value: Any) -> Any:
    import asyncio

    async def run() -> Any:
        return await value

    return asyncio.run(run())


def _incompatible(ctx: dict[str, Any], exception: str) -> str:
    here = ".".join(map(str, sys.version_info[:2]))
    made = ".".join(map(str, ctx.get("python", ()))) or here
    if made == here:
        return f"{exception} (the function or its arguments can't be loaded in this job)"
    return f"{exception} (the function was pickled by Python {made} and can't be loaded by Python {here} of this job)"
