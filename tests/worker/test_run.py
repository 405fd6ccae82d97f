from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kfasync.payload import from_function, from_script
from tests.worker.ranks import Ranks
from tests.worker.watching import appears


def _script(tmp_path: Path, text: str, *args: str) -> Any:
    path = tmp_path / "train.py"
    path.write_text(text)
    return from_script(path, args)


def test_the_value_that_the_function_returns_is_the_result(ranks: Ranks) -> None:
    assert ranks.run(lambda n: {"n": n * 2}, n=21).value == {"n": 42}


def test_a_function_that_returns_nothing_has_the_result_none(ranks: Ranks) -> None:
    assert ranks.run(lambda: None).value is None


def test_an_async_function_runs_to_its_end(ranks: Ranks) -> None:
    async def train(n: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return n + 1

    assert ranks.run(train, n=1).value == 2


def test_an_async_function_that_raises_fails_the_rank_without_asyncios_frames(ranks: Ranks) -> None:
    async def train() -> None:
        raise KeyError("k")

    ended = ranks.run(train)
    assert ended.code == 1
    assert ended.record["exception"] == "KeyError: 'k'"
    assert "asyncio" not in ended.record["traceback"]


def test_an_exception_is_recorded_and_printed_with_the_users_frames_only(ranks: Ranks) -> None:
    def inner() -> None:
        raise ValueError("bad 'learning' rate")

    def train() -> None:
        inner()

    before = time.time()
    ended = ranks.run(train)
    record = ended.record
    assert (ended.code, record["code"], record["reason"]) == (1, 1, "Error")
    assert record["exception"] == "ValueError: bad 'learning' rate"
    assert before <= record["time"] <= time.time()
    assert record["traceback"].startswith("Traceback (most recent call last):\n")
    assert [line for line in record["traceback"].splitlines() if "  File" in line and "in train" in line]
    assert os.path.join("kfasync", "worker") not in record["traceback"]
    assert os.path.join("kfasync", "worker") not in ended.stderr
    assert ended.stderr.endswith("ValueError: bad 'learning' rate\n")


def test_a_chained_exception_keeps_its_cause(ranks: Ranks) -> None:
    def train() -> None:
        try:
            raise OSError("disk")
        except OSError as e:
            raise RuntimeError("no data") from e

    ended = ranks.run(train)
    assert "OSError: disk" in ended.record["traceback"]
    assert "direct cause" in ended.record["traceback"]


def test_an_exception_whose_text_raises_is_still_recorded(ranks: Ranks) -> None:
    def train() -> None:
        class Nasty(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        raise Nasty

    ended = ranks.run(train)
    assert ended.code == 1
    assert "Nasty" in ended.record["exception"]


def test_a_traceback_names_the_file_and_shows_the_line(ranks: Ranks) -> None:
    def train() -> None:
        raise ValueError("wrong learning rate")

    trace = ranks.run(train).record["traceback"]
    assert f'File "{__file__}", line ' in trace
    assert 'raise ValueError("wrong learning rate")' in trace


def test_a_huge_traceback_is_bounded_and_keeps_both_ends(ranks: Ranks) -> None:
    def train() -> None:
        def even(n: int) -> int:
            return odd(n - 1)

        def odd(n: int) -> int:
            return even(n - 1) if n > 0 else int("x" * 1_000_000)

        even(901)

    ended = ranks.run(train)
    assert len(ended.record["traceback"]) <= 64 << 10
    assert ended.record["traceback"].startswith("Traceback")
    assert "characters left out" in ended.record["traceback"]
    assert len(ended.record["exception"]) <= 8 << 10
    assert ended.record["exception"].startswith("ValueError: ")


@pytest.mark.parametrize(
    "code", ["None", "0", "3", "True", "256", "-1", "2**70", "-(2**70)", "'no GPU'", "('a', 1)", "''"]
)
def test_sys_exit_ends_the_rank_as_it_ends_an_interpreter(ranks: Ranks, tmp_path: Path, code: str) -> None:
    text = f"import sys; sys.exit({code})"
    expected = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    ended = ranks.run(_script(tmp_path, text))
    assert (ended.code, ended.stderr) == (expected.returncode, expected.stderr)
    assert ended.record["code"] == ended.code
    assert ended.record["exception"].startswith("SystemExit: " if ended.code else "")


def test_ctrl_c_ends_the_rank_by_its_signal(ranks: Ranks) -> None:
    def train() -> None:
        raise KeyboardInterrupt

    ended = ranks.run(train)
    assert ended.code == -signal.SIGINT
    assert ended.record["code"] == -signal.SIGINT
    assert "KeyboardInterrupt" in ended.stderr


def test_a_result_that_cant_be_pickled_leaves_the_rank_successful(ranks: Ranks) -> None:
    def train() -> object:
        import threading

        return threading.Lock()

    ended = ranks.run(train)
    assert ended.code == 0
    assert "lock" in ended.record["result_error"]
    assert not (ended.directory / "result").exists()


def test_result_and_record_are_readable_by_their_owner_only(ranks: Ranks) -> None:
    ended = ranks.run(lambda: 1)
    for name in ("result", "exit", "pid", "progress-1-0.token"):
        assert (ended.directory / name).stat().st_mode & 0o777 == 0o600


def test_threads_are_joined_then_atexit_runs_backwards_then_output_is_flushed(ranks: Ranks) -> None:
    def train() -> str:
        import atexit
        import sys
        import threading

        gate = threading.Event()
        atexit.register(print, "atexit 1")
        atexit.register(print, "atexit 2", end="")
        threading.Thread(target=lambda: (gate.wait(), print("thread"))).start()
        threading.Timer(0.01, gate.set).start()
        sys.stdout.reconfigure(line_buffering=False)  # type: ignore[union-attr]
        print("returned")
        return "value"

    ended = ranks.run(train)
    assert ended.stdout == "returned\nthread\natexit 2atexit 1\n"
    assert ended.value == "value"


def test_a_daemon_thread_is_not_waited_for(ranks: Ranks) -> None:
    def train() -> None:
        import threading

        threading.Thread(target=threading.Event().wait, daemon=True).start()

    assert ranks.run(train).code == 0


def test_a_failure_is_recorded_before_a_thread_that_never_ends(ranks: Ranks) -> None:
    def train() -> None:
        import threading

        threading.Thread(target=threading.Event().wait).start()
        raise ValueError("first")

    rank = ranks.spawn(train)
    assert rank.process.stderr is not None
    while not rank.process.stderr.readline().startswith(b"ValueError"):
        pass
    # The record follows the print; the process stays, as an interpreter would.
    appears(rank.directory / "exit")
    assert rank.process.poll() is None
    rank.process.kill()
    assert rank.end().record["exception"] == "ValueError: first"


def test_os_exit_ends_the_rank_at_once_and_without_a_record(ranks: Ranks) -> None:
    def train() -> None:
        import os

        os._exit(7)

    ended = ranks.run(train)
    assert ended.code == 7
    assert not (ended.directory / "exit").exists()


def test_files_left_open_are_written(ranks: Ranks) -> None:
    def train() -> None:
        import sys

        file = open("log.txt", "w")  # noqa: SIM115
        file.write("unflushed")
        sys.modules["holder"] = [file, sys.modules]  # type: ignore[assignment]

    ended = ranks.run(train)
    assert (ended.directory / "work" / "log.txt").read_text() == "unflushed"


def test_output_that_cant_be_written_fails_the_rank_as_it_fails_an_interpreter(ranks: Ranks) -> None:
    def train() -> None:
        import os
        import sys

        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        print("lost")

    ended = ranks.run(train)
    assert (ended.code, ended.record["code"]) == (120, 120)
    assert "stdout" in ended.record["exception"]


def test_a_users_excepthook_prints_the_exception(ranks: Ranks) -> None:
    def train() -> None:
        import sys

        sys.excepthook = lambda kind, value, tb: print("hook saw", value, file=sys.stderr)
        raise ValueError("x")

    ended = ranks.run(train)
    assert ended.stderr == "hook saw x\n"
    assert ended.record["exception"] == "ValueError: x"


def test_an_excepthook_that_raises_hides_nothing(ranks: Ranks) -> None:
    def train() -> None:
        import sys

        def hook(*args: object) -> None:
            raise TypeError("hook")

        sys.excepthook = hook
        raise ValueError("x")

    ended = ranks.run(train)
    assert "TypeError: hook" in ended.stderr
    assert "ValueError: x" in ended.stderr
    assert ended.code == 1


def test_the_claim_names_the_process_before_the_users_code_runs(ranks: Ranks) -> None:
    def train() -> tuple[int, str, str]:
        import os

        with open("/proc/self/stat") as file, open("../pid") as claim:
            return os.getpid(), file.read().rpartition(")")[2].split()[19], claim.read()

    pid, start, claim = ranks.run(train).value
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert json.loads(claim) == {"pid": pid, "start_time": int(start), "boot_id": boot}


def test_a_fenced_rank_runs_nothing(ranks: Ranks) -> None:
    directory, context, env = ranks.prepare(from_function(lambda: print("ran")), {})
    (directory / "pid").write_text("fenced")
    ended = ranks.fork(directory, context, env)
    assert ended.code == 125
    assert ended.stdout == ended.stderr == ""
    assert sorted(path.name for path in directory.iterdir()) == ["payload", "pid", "stderr", "stdout", "work"]


def test_a_payload_that_cant_be_loaded_is_named_incompatible(ranks: Ranks) -> None:
    directory, context, env = ranks.prepare(from_function(lambda: 1), {})
    (directory / "payload").write_bytes(b"cno_such_module\nf\n.")
    record = ranks.fork(directory, context, env).record
    assert record["reason"] == "PayloadIncompatible"
    assert "no_such_module" in record["exception"]


def test_a_pickle_of_another_python_is_refused_naming_both_versions(ranks: Ranks) -> None:
    directory, context, env = ranks.prepare(from_function(lambda: 1), {})
    ended = ranks.fork(directory, {**context, "python": [3, 8]}, env)
    assert ended.record["reason"] == "PayloadIncompatible"
    assert "Python 3.8" in ended.record["exception"]
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in ended.record["exception"]


def test_a_script_runs_as_main_with_its_arguments(ranks: Ranks, tmp_path: Path) -> None:
    text = (
        "import json, sys\n"
        "if __name__ == '__main__':\n"
        "    here = sys.modules['__main__']\n"
        "    print(json.dumps([sys.argv, __file__, __package__, __spec__, here.__dict__ is globals(), sys.path[0]]))\n"
    )
    payload = _script(tmp_path, text, "--lr", "0.1 $(x)")
    argv, file, package, spec, is_main, first = json.loads(ranks.run(payload).stdout)
    path = str(tmp_path / "train.py")
    assert (argv, file, package, spec, is_main) == ([path, "--lr", "0.1 $(x)"], path, None, None, True)
    assert first == str(tmp_path)


def test_a_script_imports_a_module_beside_it(ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 5\n")
    assert ranks.run(_script(tmp_path, "import beside; print(beside.VALUE)")).stdout == "5\n"


def test_a_script_runs_as_it_was_submitted(ranks: Ranks, tmp_path: Path) -> None:
    payload = _script(tmp_path, "print('old')")
    (tmp_path / "train.py").write_text("print('new')")
    assert ranks.run(payload).stdout == "old\n"


def test_a_script_that_does_not_compile_says_where(ranks: Ranks, tmp_path: Path) -> None:
    ended = ranks.run(_script(tmp_path, "x = (\n"))
    assert (ended.code, ended.record["reason"]) == (1, "Error")
    assert "SyntaxError" in ended.record["exception"]
    assert "train.py" in ended.stderr


def test_a_script_that_raises_has_only_its_own_frames(ranks: Ranks, tmp_path: Path) -> None:
    ended = ranks.run(_script(tmp_path, "def f():\n    1 / 0\nf()\n"))
    assert ended.record["traceback"].count("  File ") == 2
    assert "1 / 0" in ended.record["traceback"]


def test_what_main_defined_is_found_in_main_by_a_plain_pickle(ranks: Ranks, tmp_path: Path) -> None:
    caller = tmp_path / "caller.py"
    caller.write_text(
        "import pickle, sys\n"
        "class Model:\n    pass\n"
        "def train():\n    return type(pickle.loads(pickle.dumps(Model()))).__name__\n"
        "if __name__ == '__main__':\n"
        "    from kfasync.payload import from_function\n"
        "    sys.stdout.buffer.write(from_function(train).data)\n"
    )
    data = subprocess.run([sys.executable, caller], capture_output=True, check=True, env={**os.environ}).stdout
    directory, context, env = ranks.prepare(from_function(lambda: 1), {})
    (directory / "payload").write_bytes(data)
    assert ranks.fork(directory, context, env).value == "Model"


def test_a_forked_and_a_spawned_rank_see_the_same(ranks: Ranks) -> None:
    def probe() -> dict[str, object]:
        import atexit
        import os
        import random
        import signal
        import sys
        import threading

        return {
            "argv": sys.argv,
            "main": sorted(vars(sys.modules["__main__"])),
            "name": __name__,
            "threads": threading.active_count(),
            "signals": [str(signal.getsignal(number)) for number in range(1, 32)],
            "environment": sorted(name for name in os.environ if name != "LC_CTYPE"),
            "path": [entry for entry in sys.path if entry],
            "descriptors": len(os.listdir("/proc/self/fd")),
            "buffering": sys.stdout.line_buffering,
            "atexit": atexit._ncallbacks(),
            "random": random.random() != random.Random(0).random(),
        }

    forked, spawned = ranks.run(probe).value, ranks.spawn(probe).end().value
    assert {**forked, "path": sorted(forked["path"])} == {**spawned, "path": sorted(spawned["path"])}


def test_the_spawned_worker_keeps_its_own_files_off_the_path(ranks: Ranks) -> None:
    def train() -> list[str]:
        import sys

        return sys.path

    path = ranks.spawn(train).end().value
    assert not [entry for entry in path if entry.endswith(os.path.join("kfasync", "worker"))]
