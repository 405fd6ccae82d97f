"""The command as a process: signals, pipes, what lives on after it."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Ran, open_gate

Kf = Callable[..., Ran]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kfasync.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "command",
    [["run", "SCRIPT", "--name", "JOB", "--", "block", "GATE"], ["logs", "-f", "JOB"], ["events", "-f", "JOB"]],
)
def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(
    kf: Kf, script: str, gate: Path, command: list[str]
) -> None:
    name = f"ctrl-c-{command[0]}"
    if command[0] != "run":
        kf("run", "-d", script, "--name", name, "--", "block", gate)
    known = {"SCRIPT": script, "JOB": name, "GATE": str(gate)}
    process = start(*(known.get(word, word) for word in command))
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"job {name} is still running; resume following with: kfasync wait {name}; " in err
    assert f"; cancel with: kfasync cancel {name}" in err
    assert "Traceback" not in err
    open_gate(gate)
    assert kf("wait", name).code == 0


def test_a_reader_that_leaves_early_ends_the_command_quietly(kf: Kf, tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text("for i in range(100000): print(i)")
    assert kf("run", "-d", script, "--name", "many").code == 0
    kf("wait", "many")
    process = start("logs", "many")
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 141


@pytest.mark.parametrize(
    ("redirect", "told"),
    [("> /dev/full", "stdout can't be written: No space left on device"), (">&-", "stdout is closed")],
)
@pytest.mark.parametrize("command", ["ps", "ps -o json"])
def test_an_output_that_can_not_be_written_is_one_line_and_code_1(command: str, redirect: str, told: str) -> None:
    shell = f"exec {shlex.quote(sys.executable)} -m kfasync.cli {command} {redirect}"
    ran = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (1, f"kfasync: {told}\n")


def test_following_events_sees_a_job_of_another_process(kf: Kf, script: str) -> None:
    process = start("events", "-f", "-o", "json", "--since", "0")
    kf("run", script, "--name", "seen")
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        event = json.loads(line)
        seen += [event["type"]] if event["job"] == "seen" else []
        if seen[-1:] == ["JobCompleted"]:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert (seen[0], process.returncode) == ("JobSubmitted", 130)


def test_no_supervisor_is_left_when_its_stop_returns(kf: Kf, script: str) -> None:
    for number in range(5):
        kf("run", script, "--name", f"before-stop-{number}")
        pid = kf("supervisor", "status", "-o", "json").json["pid"]
        assert kf("supervisor", "stop").code == 0
        with contextlib.suppress(psutil.NoSuchProcess):
            # Nobody may have reaped it yet.
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_job_survives_its_supervisor_s_stop(kf: Kf, script: str, gate: Path) -> None:
    kf("run", "-d", script, "--name", "survivor", "--", "block", gate)
    assert kf("wait", "survivor", "--timeout", "0.01").code == 124
    before = kf("supervisor", "status", "-o", "json").json
    assert before["jobs"] == ["survivor"]
    assert kf("supervisor", "stop").code == 0
    assert kf("supervisor", "status").code == 1
    assert [job["name"] for job in kf("ps", "-o", "json").json] == ["survivor"]
    open_gate(gate)
    assert kf("wait", "survivor").code == 0
    assert kf("supervisor", "status", "-o", "json").json["pid"] != before["pid"]
