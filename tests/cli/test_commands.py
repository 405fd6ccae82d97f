"""What a user of the command sees, on real local jobs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import kfasync
from tests.cli.conftest import Ran, open_gate

Kf = Callable[..., Ran]
_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """A job name that no other test of this module uses."""
    return f"job-{next(_numbers)}"


def test_run_prints_the_output_and_leaves_with_zero(kf: Kf, script: str, name: str) -> None:
    ran = kf("run", script, "--name", name, "--", "--epochs", "3", "-o", "$HOME")
    assert ran.code == 0
    *output, end = ran.out.splitlines()
    assert sorted(output) == ["hello --epochs 3 -o $HOME", "to stderr"]
    assert end == f"{name} Complete"
    assert name in ran.err


@pytest.mark.parametrize(("way", "code"), [("seven", 7), ("crash", 1), ("signal", 100)])
def test_run_and_wait_leave_with_the_code_of_the_job(kf: Kf, script: str, name: str, way: str, code: int) -> None:
    assert kf("run", script, "--name", name, "--", way).code == code
    waited = kf("wait", name, "-o", "json")
    assert waited.code == code
    assert (waited.json["name"], waited.json["status"]) == (name, "Failed")


def test_wait_as_json_has_the_metrics_that_nobody_has_read_before(kf: Kf, tmp_path: Path, name: str) -> None:
    script = tmp_path / "metrics.py"
    script.write_text("for loss in (0.5, 0.25): print(f'loss={loss}')")
    kf("run", "-d", script, "--name", name)
    assert kf("wait", name, "-o", "json").json["metrics"] == {"loss": {"min": 0.25, "max": 0.5, "latest": 0.25}}


def test_a_failure_is_told_on_stderr_with_the_exception(kf: Kf, script: str, name: str) -> None:
    kf("run", "-d", script, "--name", name, "--", "crash")
    waited = kf("wait", name)
    assert waited.out == ""
    assert "ValueError: on purpose" in waited.err
    assert "rank 0 on node 0" in waited.err


def test_run_detached_prints_the_name_only(kf: Kf, script: str, name: str) -> None:
    ran = kf("run", "--detach", script, "--name", name)
    assert (ran.code, ran.out, ran.err) == (0, f"{name}\n", "")
    assert kf("wait", name).out == f"{name} Complete\n"


def test_run_passes_nodes_processes_and_variables(kf: Kf, tmp_path: Path, name: str) -> None:
    path = tmp_path / "env.py"
    path.write_text("import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['GREETING'])")
    ran = kf("run", path, "--name", name, "--nodes", 2, "--procs", 2, "-e", "GREETING=a=b")
    assert ran.code == 0
    printed = [line for line in ran.out.splitlines() if line.startswith("[node-")]
    assert sorted(printed) == ["[node-0] 0 4 a=b", "[node-0] 1 4 a=b", "[node-1] 2 4 a=b", "[node-1] 3 4 a=b"]


def test_wait_times_out_with_124_and_the_job_goes_on(kf: Kf, script: str, gate: Path, name: str) -> None:
    kf("run", "-d", script, "--name", name, "--", "block", gate)
    waited = kf("wait", name, "--timeout", "0.01")
    assert waited.code == 124
    assert len(waited.err.splitlines()) == 1
    open_gate(gate)
    assert kf("wait", name).code == 0


def test_ps_lists_what_has_not_ended_and_with_a_all(kf: Kf, script: str, gate: Path, name: str) -> None:
    kf("run", script, "--name", f"{name}-ended")
    kf("run", "-d", script, "--name", name, "--", "block", gate)
    text = kf("ps").out
    assert text.splitlines()[0].split()[:2] == ["NAME", "STATUS"]
    assert name in text.split()
    assert f"{name}-ended" not in text.split()
    everything = {job["name"]: job for job in kf("ps", "-a", "-o", "json").json}
    assert everything[f"{name}-ended"]["status"] == "Complete"
    assert everything[name]["num_nodes"] == 1
    open_gate(gate)
    kf("wait", name)


@pytest.mark.parametrize(
    "command",
    [("ps", "-a"), ("logs", "-f", "JOB"), ("events", "JOB"), ("wait", "JOB"), ("cancel", "JOB"), ("delete", "JOB")],
)
def test_every_command_speaks_json(kf: Kf, script: str, name: str, command: tuple[str, ...]) -> None:
    kf("run", "-d", script, "--name", name)
    ran = kf(*(name if word == "JOB" else word for word in command), "-o", "json")
    assert ran.code in (0, 100)
    assert ran.lines
    assert name in ran.out or "hello" in ran.out


def test_logs_gives_both_streams(kf: Kf, script: str, name: str) -> None:
    kf("run", script, "--name", name)
    assert sorted(kf("logs", name).out.splitlines()) == ["hello", "to stderr"]
    told = {line["text"]: line["stream"] for line in kf("logs", name, "-o", "json").lines}
    assert told == {"hello": "stdout", "to stderr": "stderr"}


def test_logs_gives_the_tail_the_nodes_and_a_cursor_to_go_on_from(kf: Kf, tmp_path: Path, name: str) -> None:
    path = tmp_path / "count.py"
    path.write_text("for i in range(3): print(i)")
    kf("run", path, "--name", name)
    assert kf("logs", name, "--tail", 1).out == "2\n"
    assert kf("logs", name, "--step", "all").out == "[node-0] 0\n[node-0] 1\n[node-0] 2\n"
    lines = kf("logs", name, "-o", "json").lines
    assert kf("logs", name, "--since", lines[0]["cursor"]).out == "1\n2\n"


def test_a_time_that_is_none_is_refused(kf: Kf, script: str, name: str) -> None:
    kf("run", script, "--name", name)
    ran = kf("logs", name, "--since", "nan")
    assert (ran.code, ran.out) == (1, "")
    assert "since=nan" in ran.err


def test_logs_following_an_ended_job_end(kf: Kf, script: str, name: str) -> None:
    kf("run", script, "--name", name)
    ran = kf("logs", "-f", name)
    assert (ran.code, sorted(ran.out.splitlines())) == (0, ["hello", "to stderr"])


def test_events_tell_the_story_and_go_on_behind_a_cursor(kf: Kf, script: str, name: str) -> None:
    kf("run", script, "--name", name)
    told = kf("events", name, "-o", "json").lines
    assert [event["type"] for event in told] == ["JobSubmitted", "JobStarted", "RankExited", "JobCompleted"]
    assert {event["job"] for event in told} == {name}
    assert kf("events", name, "--since", told[1]["cursor"], "-o", "json").lines == told[2:]
    assert len(kf("events", name).out.splitlines()) == len(told)


@pytest.mark.parametrize("of_all", [False, True])
def test_events_include_the_metrics_that_nobody_has_read_before(
    kf: Kf, tmp_path: Path, name: str, of_all: bool
) -> None:
    script = tmp_path / "metrics.py"
    script.write_text("print('loss=0.5')")
    kf("run", "-d", script, "--name", name)
    kf("wait", name)
    told = kf("events", *([] if of_all else [name]), "-o", "json").lines
    assert [event["values"] for event in told if (event["job"], event["type"]) == (name, "MetricReported")] == [
        {"loss": 0.5}
    ]


def test_events_of_all_jobs_include_the_deleted_ones(kf: Kf, script: str, name: str) -> None:
    kf("run", script, "--name", name)
    assert kf("delete", name).code == 0
    mine = [event["type"] for event in kf("events", "-o", "json").lines if event["job"] == name]
    assert (mine[0], mine[-1]) == ("JobSubmitted", "JobDeleted")


def test_cancel_ends_the_job_and_keeps_its_log(kf: Kf, script: str, gate: Path, name: str) -> None:
    kf("run", "-d", script, "--name", name, "--", "block", gate)
    assert kf("cancel", name).out == f"{name}\n"
    waited = kf("wait", name, "-o", "json")
    assert waited.code == 100
    assert waited.json["reason"] == "Cancelled"
    assert kf("logs", name).code == 0


def test_suspend_and_resume(kf: Kf, script: str, gate: Path, name: str) -> None:
    kf("run", "-d", script, "--name", name, "--", "block", gate)
    (asked,) = kf("suspend", name, "-o", "json").json
    assert (asked["name"], asked["requested"]) == (name, "suspend")
    follow = kf("wait", name, "--timeout", "0.01")
    assert follow.code == 124
    assert kf("resume", name).code == 0
    open_gate(gate)
    waited = kf("wait", name, "-o", "json")
    assert (waited.code, waited.json["status"]) == (0, "Complete")


@pytest.mark.parametrize(("action", "code"), [("cancel", 0), ("suspend", 1), ("resume", 1)])
def test_what_has_ended_is_not_said_to_be_stopped_or_resumed(
    kf: Kf, script: str, name: str, action: str, code: int
) -> None:
    kf("run", script, "--name", name)
    ran = kf(action, name)
    assert (ran.code, ran.out, ran.err) == (code, "", f"kfasync: job {name} is Complete: nothing to {action}\n")
    told = kf(action, name, "-o", "json")
    assert (told.code, [job["requested"] for job in told.json]) == (code, [None])


def test_delete_takes_several_names(kf: Kf, script: str, name: str) -> None:
    for each in (f"{name}-a", f"{name}-b"):
        kf("run", script, "--name", each)
    assert kf("delete", f"{name}-a", f"{name}-b").code == 0
    assert not {f"{name}-a", f"{name}-b"} & {job["name"] for job in kf("ps", "-a", "-o", "json").json}


@pytest.mark.parametrize(
    "command", [("wait",), ("logs",), ("events",), ("cancel",), ("delete",), ("suspend",), ("resume",)]
)
def test_an_unknown_job_is_one_line_on_stderr_and_code_1(kf: Kf, command: tuple[str, ...]) -> None:
    ran = kf(*command, "no-such-job")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("kfasync: no job is named 'no-such-job'")
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["wait"], ["cancel"], ["logs", "x", "--tail", "many"], ["ps", "-o", "xml"]]
)
def test_wrong_usage_is_code_2_with_nothing_on_stdout(kf: Kf, arguments: list[str]) -> None:
    ran = kf(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


@pytest.mark.parametrize(("command", "missing"), [("run", "SCRIPT"), ("logs", "NAME"), ("wait", "NAME")])
def test_a_missing_argument_is_named_as_it_is_given(kf: Kf, command: str, missing: str) -> None:
    ran = kf(command)
    assert ran.code == 2
    assert missing in ran.err
    assert f"--{missing.lower()}" not in ran.err


@pytest.mark.parametrize(
    "arguments", [["/no/such/script.py"], ["SCRIPT", "-e", "X"], ["SCRIPT", "--name", "Not Valid"]]
)
def test_a_run_that_can_not_be_is_code_1_and_leaves_nothing(kf: Kf, script: str, arguments: list[str]) -> None:
    before = kf("ps", "-a", "-o", "json").json
    ran = kf("run", *(script if each == "SCRIPT" else each for each in arguments))
    assert (ran.code, ran.out) == (1, "")
    assert len(ran.err.splitlines()) == 1
    assert kf("ps", "-a", "-o", "json").json == before


def test_version_and_help(kf: Kf) -> None:
    assert kf("--version").out.strip() == kfasync.__version__
    shown = kf("--help")
    assert shown.code == 0
    assert {"ps", "logs", "events", "wait", "cancel", "delete"} <= set(shown.out.split())
    assert "Also those that have ended." in kf("ps", "--help").out


def test_an_empty_home_lists_nothing_and_starts_no_supervisor(
    kf: Kf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFASYNC_HOME", str(tmp_path / "empty"))
    assert kf("ps", "-a", "-o", "json").json == []
    assert (kf("events").code, kf("events").out) == (0, "")
    status = kf("supervisor", "status", "-o", "json")
    assert (status.code, status.json) == (1, {"running": False})
    assert kf("supervisor", "stop", "-o", "json").json == {"stopped": False}
