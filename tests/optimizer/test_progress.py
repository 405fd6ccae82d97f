"""The line in the terminal while somebody waits for a study: on a real terminal, of a real study."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import Objective, OptimizerClient, TrialConfig
from kfasync.optimizer._progress import Line, line_of
from kfasync.optimizer._study import Study
from tests.optimizer.test_study import ended, make, started

# -------------------------------------------------------------------- what it says


def test_the_line_counts_trials_and_names_the_best_value() -> None:
    study = make(
        started(0), started(1), started(2), started(3), ended(0, loss=0.5), ended(1, "failed"), ended(2, "pruned"),
        num_trials=20,
    )  # fmt: skip
    assert line_of("demo", study, 75) == "demo  3/20 trials, 1 running, 1 failed, 1 pruned, best loss 0.5, 1:15"


def test_the_line_of_several_objectives_counts_the_front() -> None:
    objectives = [Objective("a"), Objective("b")]
    study = make(started(0), started(1), ended(0, a=1.0, b=2.0), ended(1, a=2.0, b=1.0), objectives=objectives)
    assert line_of("demo", study, 5) == "demo  2/5 trials, 0 running, 2 on the Pareto front, 5 s"


def test_the_line_obeys_no_escape_sequence() -> None:
    study = Study([Objective("\x1b[2Jloss\n")], TrialConfig(1))
    study.apply(started(0))
    study.apply(ended(0, **{"\x1b[2Jloss\n": 1.0}))
    assert line_of("demo", study, 1).isprintable()


# -------------------------------------------------------------------- on a terminal

_SCRIPT = """
import sys
from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import AsyncOptimizerClient, OptimizerClient, Search, TrainJobTemplate, TrialConfig
from kfasync.trainer import CustomTrainer
from tests.optimizer.functions import square, fail_above, wait_for_ever

func = fail_above if "fail" in sys.argv else wait_for_ever if "stuck" in sys.argv else square
call = dict(trial_template=TrainJobTemplate(trainer=CustomTrainer(func=func)),
            search_space={"x": Search.choice([1.0])}, trial_config=TrialConfig(4, 2))
wait = {"progress": False} if "off" in sys.argv else {}
if "tell" in sys.argv:
    wait["callbacks"] = [lambda job: print("told", job.status)]

def block():
    client = OptimizerClient(LocalProcessBackendConfig())
    client.wait_for_job_status(client.optimize(**call, name=sys.argv[1]), **wait)

async def on_loop():
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        await client.wait_for_job_status(await client.optimize(**call, name=sys.argv[1]), **wait)

if "async" in sys.argv:
    import asyncio
    asyncio.run(on_loop())
else:
    block()
print("after")
"""


def _on_terminal(
    home: Path, *arguments: str, columns: int = 100, stdout: Path | None = None, interrupt_at: bytes | None = None
) -> str:
    """What a terminal is sent while the script runs in it; Ctrl-C is pressed when it shows a text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = os.environ | {"KFASYNC_HOME": str(home), "TERM": "xterm-256color"}
    with open(stdout or os.devnull, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, *arguments],
            env=env, stdin=theirs, stdout=theirs if stdout is None else file, stderr=theirs, start_new_session=True,
        )  # fmt: skip
    os.close(theirs)
    found = bytearray()
    try:
        while data := os.read(ours, 65536):
            found += data
            if interrupt_at is not None and interrupt_at in found:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
    except OSError as error:
        # How Linux says that nobody has the other end any more.
        if error.errno != errno.EIO:
            raise
    finally:
        os.close(ours)
    process.wait()
    return found.decode()


def _screen(sent: str) -> list[str]:
    """The lines that stay on the screen: each is what was sent behind the last return to its start."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent)
    return [line.split("\r")[-1].rstrip() for line in plain.replace("\r\n", "\n").removesuffix("\n").split("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["block", "async"])
def test_a_terminal_shows_one_line_that_goes_on_and_stays_at_the_end(own_home: Path, way: str) -> None:
    sent = _on_terminal(own_home, f"tty-{way}", way)
    lines = _screen(sent)
    assert len(lines) == 2, sent
    assert re.fullmatch(rf"tty-{way}  4/4 trials, 0 running, best loss 1, [\d.]+ s", lines[0])
    assert lines[1] == "after"
    # It was there before: with a study that had not begun, on the same line.
    assert re.search(rf"tty-{way}  0/4 trials", sent)
    # The cursor is back.
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")


@contextlib.contextmanager
def _terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Within it this process's standard error is a terminal; gives the end that reads what is on it."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        yield ours
    os.close(ours)


def _shown(terminal: int, lines: int) -> str:
    """What is on the terminal once so many lines have ended, each by giving the cursor back."""
    found = b""
    while found.count(b"\x1b[?25h") < lines:
        found += os.read(terminal, 65536)
    return found.decode()


@pytest.mark.anyio
async def test_of_two_waits_at_once_one_has_the_line_and_the_next_has_it_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _terminal(monkeypatch) as terminal:
        with Line("one", make(), time.time()) as one, Line("two", make(), time.time()) as two:
            assert (one.showing, two.showing) == (True, False)
            two.apply(started(0))
        with Line("three", make(), time.time()) as three:
            assert three.showing
        shown = _shown(terminal, 2)
    assert "one  0/5 trials" in shown
    assert "three  0/5 trials" in shown
    assert "two" not in shown


@pytest.mark.anyio
async def test_a_thousand_events_at_once_are_not_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with _terminal(monkeypatch) as terminal:
        with Line("busy", make(num_trials=500), time.time()) as line:
            for number in range(500):
                line.apply(started(number))
                line.apply(ended(number, loss=1.0))
        shown = _shown(terminal, 1)
    assert "busy  500/500 trials" in shown
    assert shown.count("busy") <= 4


@pytest.mark.slow
def test_what_callbacks_print_appears_above_the_line(own_home: Path) -> None:
    *told, line, after = _screen(_on_terminal(own_home, "told", "tell"))
    assert set(told) <= {"told Created", "told Running", "told Complete"}
    assert told[-1] == "told Complete"
    assert line.startswith("told  4/4 trials")
    assert after == "after"


@pytest.mark.slow
def test_what_is_printed_into_a_pipe_stays_there(own_home: Path, tmp_path: Path) -> None:
    sent = _on_terminal(own_home, "piped", "tell", stdout=tmp_path / "out")
    assert "told" not in sent
    assert "piped  4/4 trials" in sent
    assert (tmp_path / "out").read_text().splitlines()[-2:] == ["told Complete", "after"]


@pytest.mark.slow
def test_the_line_of_a_failed_study_stays_above_its_error(own_home: Path) -> None:
    lines = _screen(_on_terminal(own_home, "bad", "fail"))
    assert lines[0].startswith("bad  4/4 trials, 0 running, 4 failed")
    assert any("JobFailedError: job 'bad' failed" in line for line in lines[1:])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["block", "async"])
def test_ctrl_c_leaves_the_line_and_the_cursor(own_home: Path, way: str) -> None:
    sent = _on_terminal(own_home, "cut", "stuck", way, interrupt_at=b"2 running")
    assert _screen(sent)[0].startswith("cut  0/4 trials, 2 running")
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")
    assert "KeyboardInterrupt" in sent
    client = OptimizerClient(LocalProcessBackendConfig())
    assert client.get_job("cut").counts["running"] == 2
    client.cancel("cut")


@pytest.mark.slow
def test_a_narrow_terminal_has_one_line_all_the_same(own_home: Path) -> None:
    lines = _screen(_on_terminal(own_home, "narrow", columns=24))
    assert [len(line) <= 24 for line in lines] == [True, True]
    assert lines[0].startswith("narrow  4/4 trials")


@pytest.mark.slow
def test_no_line_is_shown_to_who_wants_none(own_home: Path) -> None:
    assert _on_terminal(own_home, "off", "off") == "after\r\n"


@pytest.mark.slow
def test_nothing_is_said_where_standard_error_is_no_terminal(own_home: Path) -> None:
    env = os.environ | {"KFASYNC_HOME": str(own_home)}
    done = subprocess.run([sys.executable, "-c", _SCRIPT, "quiet"], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("after\n", "")
