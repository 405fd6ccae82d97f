"""How a rank ends: its outcome, its exit record, and the steps that the interpreter itself would take."""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

__all__ = ["Outcome", "attempt", "finish", "write_private"]

_TEXT_LIMIT = 64 << 10  # characters of a traceback that are kept; the middle goes
_LINE_LIMIT = 8 << 10  # characters of an exception's text
_FILES = frozenset((io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom))
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Outcome:
    """What became of the user's code; the content of the exit record."""

    def __init__(self, code: int = 0, time: float = 0.0) -> None:
        self.code = code
        self.time = time
        self.reason = ""
        self.exception = ""
        self.traceback = ""
        self.result_error = ""
        self.final = False

    @classmethod
    def of(cls, problem: BaseException, time: float) -> Outcome:
        """The outcome of code that raised; what the interpreter would print is printed."""
        outcome = cls(1, time)
        if isinstance(problem, SystemExit):
            outcome.code = _exit_code(problem)
            if outcome.code:
                outcome.reason, outcome.exception = "Error", _cut(f"SystemExit: {problem.code}", _LINE_LIMIT)
            return outcome
        import traceback

        problem.__traceback__ = _users_part(problem.__traceback__)
        # As many frames as the interpreter prints.
        told = traceback.TracebackException(type(problem), problem, problem.__traceback__, limit=-1000)
        # Our own code that runs as a job, such as a study's driver, says why; no restart of the job would help.
        outcome.final = isinstance(getattr(problem, "kfasync_reason", None), str)
        outcome.reason = problem.kfasync_reason if outcome.final else "Error"  # type: ignore[attr-defined]
        outcome.exception = _cut("".join(told.format_exception_only()).strip(), _LINE_LIMIT)
        outcome.traceback = _cut("".join(told.format()), _TEXT_LIMIT)
        if isinstance(problem, KeyboardInterrupt):
            outcome.code = -signal.SIGINT
        _print(problem)
        return outcome

    def record(self) -> bytes:
        """The exit record."""
        return json.dumps(vars(self)).encode()


def attempt(func: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Run code that is not ours. Whatever it raises is an outcome, not an error of this program."""
    try:
        return func(*args), None
    except BaseException as problem:
        return None, problem


def finish(outcome: Outcome, exit_file: str) -> NoReturn:
    """End the process as the interpreter does, but for the teardown of its modules (0.5 s with torch loaded).

    Args:
        outcome: How the user's code ended.
        exit_file: Where the record goes; empty for nowhere.
    """
    if outcome.code:
        # At once: a thread that never ends, or a crash in somebody's atexit function, must not cost us the reason.
        _record(outcome, exit_file)
    for step in (
        threading._shutdown,  # type: ignore[attr-defined]
        atexit._run_exitfuncs,
    ):
        _, problem = attempt(step)
        if problem is not None:
            _print(problem)
    flushed = [_flush(stream) for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)]
    _flush_files()
    if not flushed[0] and not outcome.code:
        outcome.code, outcome.reason = 120, "Error"  # what the interpreter makes of output that it could not write
        outcome.exception = "OSError: the last output could not be written to stdout"
    if not outcome.code or outcome.code == 120:
        _record(outcome, exit_file)
    if outcome.code < 0:
        signal.signal(-outcome.code, signal.SIG_DFL)
        os.kill(os.getpid(), -outcome.code)
    os._exit(outcome.code)


def write_private(path: str, data: bytes) -> None:
    """Write a file of the user's own, replacing what is there."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _record(outcome: Outcome, path: str) -> None:
    if not path:
        return
    try:
        write_private(path + ".tmp", outcome.record())
        os.replace(path + ".tmp", path)
    except OSError as e:  # a full disk, or the directory is gone: the exit status still tells
        print(f"kfasync: the exit record could not be written: {e}", file=sys.stderr)


def _exit_code(problem: SystemExit) -> int:
    if problem.code is None:
        return 0
    if isinstance(problem.code, int):
        # What does not fit into a C long is -1 to the interpreter.
        return problem.code & 0xFF if -(2**63) <= problem.code < 2**63 else 255
    print(problem.code, file=sys.stderr)
    return 1


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is the user's: ours, and asyncio's runner below an async function, go."""
    while traceback is not None and _is_plumbing(traceback.tb_frame.f_code.co_filename):
        traceback = traceback.tb_next
    return traceback


def _is_plumbing(filename: str) -> bool:
    asyncio = sys.modules.get("asyncio")
    return filename.startswith(_HERE) or (
        asyncio is not None and filename.startswith(os.path.dirname(asyncio.__file__ or "") + os.sep)
    )


def _print(problem: BaseException) -> None:
    """Print it as the interpreter would: by the program's own hook, if that works."""
    _, defect = attempt(sys.excepthook, type(problem), problem, problem.__traceback__)
    if defect is not None:
        print("Error in sys.excepthook:", file=sys.stderr)
        sys.__excepthook__(type(defect), defect, defect.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(problem), problem, problem.__traceback__)


def _flush(stream: Any) -> bool:
    if stream is None or getattr(stream, "closed", False):
        return True
    _, problem = attempt(stream.flush)
    return problem is None


def _flush_files() -> None:
    # A program may leave files open, and the interpreter writes them when their last reference goes. Here nothing goes,
    # so they are looked up; only real files, since a pipe may have nobody to read it.
    for thing in gc.get_objects():
        if type(thing) in _FILES:
            attempt(_flush_file, thing)


def _flush_file(file: Any) -> None:
    if not file.closed and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        _flush(file)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head - 60
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"
