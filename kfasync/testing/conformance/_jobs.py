"""The training functions of the suite, and what each is on a fake place.

They run on every backend: small, self-contained, importing what they need inside. None sleeps to wait: a job that must
last waits to be stopped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from kfasync.testing._script import FakeOutOfMemory, FakeRank, plays

Fake = Generator[float | None, None, Any]


def _fake_print_lines(rank: FakeRank, lines: Sequence[str], errors: Sequence[str] = ()) -> None:
    for line in lines:
        rank.print(line)
    for line in errors:
        rank.print(line, stream="stderr")


@plays(_fake_print_lines)
def print_lines(lines: Sequence[str], errors: Sequence[str] = ()) -> None:
    """Print to stdout, then to stderr."""
    import sys

    for line in lines:
        print(line, flush=True)
    for line in errors:
        print(line, file=sys.stderr, flush=True)


def _fake_print_marks(rank: FakeRank) -> None:
    rank.print(f"rank {rank.rank} of {rank.world_size} on node {rank.node} attempt {rank.attempt}")


@plays(_fake_print_marks)
def print_marks() -> None:
    """Print which rank this is, from torchrun's environment."""
    import os

    env = os.environ
    attempt = env["KFASYNC_ATTEMPT"]
    print(f"rank {env['RANK']} of {env['WORLD_SIZE']} on node {env['GROUP_RANK']} attempt {attempt}", flush=True)


def _fake_wait(rank: FakeRank) -> Fake:
    rank.print("ready")
    yield math.inf


@plays(_fake_wait)
def wait_for_stop() -> None:
    """Wait for ever, as a program that knows nothing of kfasync does."""
    import threading

    print("ready", flush=True)
    threading.Event().wait()


def _fake_print_and_wait(rank: FakeRank, lines: Sequence[str]) -> Fake:
    _fake_print_lines(rank, lines)
    yield math.inf


@plays(_fake_print_and_wait)
def print_and_wait(lines: Sequence[str]) -> None:
    """Print, then wait for ever."""
    import threading

    for line in lines:
        print(line, flush=True)
    threading.Event().wait()


def _fake_stop_politely(rank: FakeRank) -> Fake:
    rank.print("ready")
    yield None
    rank.print("checkpoint saved")
    return "stopped"


@plays(_fake_stop_politely)
def stop_politely() -> str:
    """Wait until ``should_stop()`` says so, then print and return."""
    import os
    import signal

    import kfasync

    # A signal writes a byte to the pipe, also one that comes between the question and the read.
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    stopped = kfasync.should_stop()
    print("ready", flush=True)
    while not stopped:
        os.read(read, 1)
        stopped = kfasync.should_stop()
    print("checkpoint saved", flush=True)
    return "stopped"


def _fake_ignore_sigterm(rank: FakeRank) -> Fake:
    rank.ignore_sigterm()
    rank.print("ready")
    yield math.inf


@plays(_fake_ignore_sigterm)
def ignore_sigterm() -> None:
    """Wait for ever and mind no SIGTERM; only SIGKILL helps."""
    import signal
    import threading

    import kfasync

    kfasync.should_stop()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    threading.Event().wait()


def _fake_fail(rank: FakeRank, message: str) -> None:
    rank.print("about to fail")
    raise ValueError(message)


@plays(_fake_fail)
def fail(message: str) -> None:
    """Raise a ValueError."""
    print("about to fail", flush=True)
    raise ValueError(message)


def _fake_fail_on_rank(rank: FakeRank, failing: int) -> Fake:
    if rank.rank == failing:
        raise RuntimeError(f"rank {failing} is broken")
    yield math.inf


@plays(_fake_fail_on_rank)
def fail_on_rank(failing: int) -> None:
    """Raise on one rank; the others wait for ever, as in a collective."""
    import os
    import threading

    if int(os.environ["RANK"]) == failing:
        raise RuntimeError(f"rank {failing} is broken")
    threading.Event().wait()


def _fake_fail_once(rank: FakeRank) -> str:
    if rank.attempt == 1:
        raise RuntimeError("the first attempt always fails")
    return f"attempt {rank.attempt}"


@plays(_fake_fail_once)
def fail_once() -> str:
    """Fail at the first attempt, return at the next."""
    import os

    attempt = os.environ["KFASYNC_ATTEMPT"]
    if attempt == "1":
        raise RuntimeError("the first attempt always fails")
    return f"attempt {attempt}"


def _fake_exit_with(rank: FakeRank, code: int) -> None:
    raise SystemExit(code)


@plays(_fake_exit_with)
def exit_with(code: int) -> None:
    """Leave by ``sys.exit``."""
    import sys

    sys.exit(code)


def _fake_exhaust_memory(rank: FakeRank, limit: int) -> None:
    raise FakeOutOfMemory(limit)


@plays(_fake_exhaust_memory)
def exhaust_memory(limit: int) -> None:
    """Take twice the memory that the job may have."""
    block = bytearray(2 * limit)
    for page in range(0, len(block), 4096):
        block[page] = 1


def _fake_add(rank: FakeRank, **values: Any) -> Any:
    return {"sum": sum(v for v in values.values() if isinstance(v, int)), "rank": rank.rank, "given": dict(values)}


@plays(_fake_add)
def add(**values: Any) -> Any:
    """Return a value made of the arguments."""
    import os

    total = sum(v for v in values.values() if isinstance(v, int))
    return {"sum": total, "rank": int(os.environ["RANK"]), "given": dict(values)}


async def _add_async(**values: Any) -> Any:
    return add(**values)


run_as_coroutine = plays(_fake_add)(_add_async)


def _fake_report_numbers(rank: FakeRank, losses: Sequence[float]) -> None:
    for step, loss in enumerate(losses, start=1):
        rank.report(step, loss=loss)
        rank.print(f"accuracy={step / 10}")
    rank.progress(100.0, message="done")


@plays(_fake_report_numbers)
def report_numbers(losses: Sequence[float]) -> None:
    """Report a loss for each step, print an accuracy, and tell the progress."""
    import kfasync

    for step, loss in enumerate(losses, start=1):
        kfasync.report(step, loss=loss)
        print(f"accuracy={step / 10}", flush=True)
    kfasync.progress(100.0, message="done")


def _fake_report_then_wait(rank: FakeRank, loss: float) -> Fake:
    rank.report(1, loss=loss)
    yield math.inf


@plays(_fake_report_then_wait)
def report_then_wait(loss: float) -> None:
    """Report one loss, then wait for ever."""
    import threading

    import kfasync

    kfasync.report(1, loss=loss)
    threading.Event().wait()


def _fake_spawn_grandchild(rank: FakeRank) -> Fake:
    rank.print("0")
    yield math.inf


@plays(_fake_spawn_grandchild)
def spawn_grandchild() -> None:
    """Start a process in a session of its own, print its pid, wait for ever."""
    import subprocess
    import sys
    import threading

    code = "import threading; threading.Event().wait()"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    print(child.pid, flush=True)
    threading.Event().wait()


def _fake_read_environment(rank: FakeRank, names: Sequence[str]) -> Mapping[str, str | None]:
    return {name: rank.env.get(name) for name in names}


@plays(_fake_read_environment)
def read_environment(names: Sequence[str]) -> Mapping[str, str | None]:
    """Return some variables of the environment. It prints nothing: a value may be a secret."""
    import os

    return {name: os.environ.get(name) for name in names}


def _fake_write_file(rank: FakeRank, name: str, text: str) -> None:
    rank.write(name, text)


@plays(_fake_write_file)
def write_file(name: str, text: str) -> None:
    """Write a file into the working directory."""
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)


def _fake_count_runs(rank: FakeRank) -> Fake:
    rank.print(f"run {rank.attempt}")
    yield math.inf


@plays(_fake_count_runs)
def count_runs() -> None:
    """Count the runs in a file of the working directory, print the count, wait for ever."""
    import threading

    with open("runs", "a+", encoding="utf-8") as file:
        file.write("x")
        file.seek(0)
        print(f"run {len(file.read())}", flush=True)
    threading.Event().wait()


def _fake_check_secret(rank: FakeRank, name: str, digest: str) -> bool:
    return hashlib.sha256(rank.env[name].encode()).hexdigest() == digest


@plays(_fake_check_secret)
def check_secret(name: str, digest: str) -> bool:
    """Tell whether a variable has the value with this SHA-256. The value goes nowhere."""
    import hashlib
    import os

    return hashlib.sha256(os.environ[name].encode()).hexdigest() == digest


def _fake_report_by_protocol(rank: FakeRank) -> bool:
    rank.report(loss=0.5)
    rank.progress(50.0, remaining=30)
    return True


@plays(_fake_report_by_protocol)
def report_by_protocol() -> bool:
    """Report as a program written for Kubeflow's progress protocol does: one POST, nothing of kfasync."""
    import json
    import os
    import urllib.request

    status = {
        "progressPercentage": 50,
        "estimatedRemainingSeconds": 30,
        "metrics": [{"name": "loss", "value": "0.5"}],
        "lastUpdatedTime": "2026-01-01T00:00:00Z",
    }
    with open(os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"], encoding="utf-8") as file:
        token = file.read().strip()
    request = urllib.request.Request(
        os.environ["KUBEFLOW_TRAINER_SERVER_URL"],
        data=json.dumps({"trainerStatus": status}).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
        method="POST",
    )
    with urllib.request.urlopen(request) as response:
        return bool(response.status == 200)


def _fake_print_many(rank: FakeRank, count: int) -> None:
    for number in range(count):
        rank.print(f"line {number}")


@plays(_fake_print_many)
def print_many(count: int) -> None:
    """Print numbered lines."""
    for number in range(count):
        print(f"line {number}")


def _fake_add_word(rank: FakeRank, word: str, fail_first: bool = False) -> str:
    with open(rank.checkpoint_dir() / "words", "a+") as file:
        file.write(f" {word}")
        file.seek(0)
        words = file.read().split()
    if fail_first and rank.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return " ".join(words)


@plays(_fake_add_word)
def add_word(word: str, fail_first: bool = False) -> str:
    """Write a word behind those in the checkpoint, in place, and return all of them; then fail, the first time."""
    import os

    import kfasync

    with open(kfasync.checkpoint_dir() / "words", "a+") as file:
        file.write(f" {word}")
        file.seek(0)
        words = file.read().split()
    if fail_first and os.environ["KFASYNC_ATTEMPT"] == "1":
        raise RuntimeError("the first attempt fails")
    return " ".join(words)
