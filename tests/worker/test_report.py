from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfasync.state import parse_report
from kfasync.worker import MARK, progress, report, report_metrics
from tests.worker.ranks import Ranks


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    path = tmp_path / "report"
    monkeypatch.setenv("KFASYNC_REPORT_FILE", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


def test_outside_a_job_nothing_is_written_and_the_caller_is_told() -> None:
    assert report(loss=1.0) is False
    assert progress(5) is False


def test_a_report_is_one_line_with_time_step_and_values(lines: Callable[[], list[dict[str, Any]]]) -> None:
    assert report(3, loss=0.5, lr=1) is True
    (line,) = lines()
    assert line.pop("t") > 1e9
    assert line == {"k": "metric", "s": 3.0, "m": {"loss": 0.5, "lr": 1.0}}


@pytest.mark.parametrize(
    ("given", "step", "names"),
    [
        ({"step": 7, "loss": 1}, 7.0, ["loss"]),
        ({"epoch": 2, "loss": 1}, 2.0, ["epoch", "loss"]),
        ({"epoch": 2, "step": 9, "loss": 1}, 9.0, ["epoch", "loss"]),
        ({"loss": 1}, None, ["loss"]),
        ({"step": 0, "epoch": 5, "loss": 1}, 0.0, ["epoch", "loss"]),
    ],
)
def test_step_and_epoch_may_be_given_by_name(
    lines: Callable[[], list[dict[str, Any]]], given: dict[str, float], step: float | None, names: list[str]
) -> None:
    report(**given)
    assert lines()[0]["s"] == step
    assert list(lines()[0]["m"]) == names


def test_a_step_given_twice_is_an_error() -> None:
    with pytest.raises(TypeError, match="step twice"):
        report(1, step=2)


@pytest.mark.parametrize(
    ("args", "given"),
    [
        (({"val/loss": 0.5},), {"step": 3}),
        (({"val/loss": 0.5}, 3), {}),
        ((), {"metrics": {"val/loss": 0.5}, "step": 3}),
        ((), {"step": 3, "val/loss": 0.5}),
    ],
)
def test_metrics_by_kubeflows_name_are_a_report(
    lines: Callable[[], list[dict[str, Any]]], args: tuple[Any, ...], given: dict[str, Any]
) -> None:
    assert report_metrics(*args, **given) is True
    (line,) = lines()
    assert (line["k"], line["s"], line["m"]) == ("metric", 3.0, {"val/loss": 0.5})


def test_metrics_by_kubeflows_name_must_be_some_and_numbers() -> None:
    with pytest.raises(TypeError, match="no metrics"):
        report_metrics({})
    with pytest.raises(TypeError, match="'loss'"):
        report_metrics(loss="low")


def test_non_finite_values_arrive_as_they_are(tmp_path: Path, lines: Callable[[], list[dict[str, Any]]]) -> None:
    report(a=math.nan, b=math.inf, c=-math.inf)
    parsed = parse_report((tmp_path / "report").read_text())
    assert parsed is not None
    assert parsed[0] == "metric"
    assert math.isnan(parsed[2]["a"])
    assert (parsed[2]["b"], parsed[2]["c"]) == (math.inf, -math.inf)


def test_scalars_of_numpy_and_torch_are_numbers(lines: Callable[[], list[dict[str, Any]]]) -> None:
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    report(a=numpy.float32(0.5), b=torch.tensor(0.25), c=torch.ones((), requires_grad=True) * 2)
    assert lines()[0]["m"] == {"a": 0.5, "b": 0.25, "c": 2.0}


@pytest.mark.parametrize("value", ["0.5", b"1", None, [1.0], {}, 1j, 10**400, object()])
def test_a_value_that_is_no_number_is_refused_by_name(
    lines: Callable[[], list[dict[str, Any]]], tmp_path: Path, value: object
) -> None:
    with pytest.raises(TypeError, match="'val_loss'"):
        report(loss=1.0, val_loss=value)
    assert not (tmp_path / "report").exists()


def test_a_report_of_nothing_says_what_to_give() -> None:
    for nothing in ((), (1,)):
        with pytest.raises(TypeError, match=r"give numbers by name, such as report\(step=1, loss=0\.5\)"):
            report(*nothing)
    with pytest.raises(TypeError, match="give numbers by name"):
        report(step=1)


def test_progress_stays_within_0_and_100_and_names_what_is_no_number(lines: Callable[[], list[dict[str, Any]]]) -> None:
    for percent in (-3, 140, 99.5):
        progress(percent)
    assert [line["p"] for line in lines()] == [0.0, 100.0, 99.5]
    with pytest.raises(TypeError, match=r"^percent is no single number: 'a'"):
        progress("a")  # type: ignore[arg-type]


def test_progress_is_one_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    assert progress(40, remaining=12.5, message='epoch "2"\n') is True
    line = lines()[0]
    assert (line["k"], line["p"], line["r"], line["msg"]) == ("progress", 40.0, 12.5, 'epoch "2"\n')


def test_lines_of_threads_and_forked_children_stay_whole(ranks: Ranks) -> None:
    def train(count: int) -> None:
        import os
        import threading

        import kfasync

        def work(who: int) -> None:
            for step in range(count):
                kfasync.report(step, who=who, **{f"metric_{index}": index for index in range(200)})

        child = os.fork()
        threads = [threading.Thread(target=work, args=(2 * t + bool(child),)) for t in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    ended = ranks.run(train, count=50)
    assert ended.code == 0, ended.stderr
    seen = {(line["m"]["who"], line["s"]) for line in ended.reports}
    assert len(ended.reports) == 300
    assert seen == {(float(who), float(step)) for who in range(6) for step in range(50)}


def test_a_torn_line_is_no_report_and_hides_no_other(tmp_path: Path, lines: Callable[[], list[dict[str, Any]]]) -> None:
    report(1, loss=0.5)
    path = tmp_path / "report"
    whole = path.read_text()
    assert parse_report(whole) == ("metric", 1.0, {"loss": 0.5})
    assert [parse_report(whole[:cut]) for cut in range(len(whole) - 2)] == [None] * (len(whole) - 2)


def test_a_report_survives_a_program_that_closes_all_descriptors(ranks: Ranks) -> None:
    def train() -> None:
        import os

        import kfasync

        kfasync.report(1, loss=1)
        os.closerange(3, 64)
        stranger = os.open("stranger", os.O_WRONLY | os.O_CREAT)
        kfasync.report(2, loss=1)
        os.close(stranger)

    ended = ranks.run(train)
    assert [line["s"] for line in ended.reports] == [1.0, 2.0]
    assert (ended.directory / "work" / "stranger").read_bytes() == b""


def test_a_full_disk_is_an_error_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFASYNC_REPORT_FILE", "/dev/full")
    with pytest.raises(OSError, match="No space left"):
        report(loss=1)


def test_remote_reports_and_the_result_are_marked_lines_of_stdout(ranks: Ranks) -> None:
    def train() -> dict[str, float]:
        import kfasync

        print("hello")
        kfasync.report(1, loss=float("nan"))
        return {"best": float("inf")}

    ended = ranks.run(train, env={"KFASYNC_REPORT": "stdout"})
    plain, metric, result = ended.stdout.splitlines()
    assert plain == "hello"
    assert metric.startswith(MARK)
    assert json.loads(metric.removeprefix(MARK))["m"] == {"loss": "nan"}
    assert json.loads(result.removeprefix(MARK)) == {"k": "result", "v": {"best": math.inf}}


@pytest.mark.parametrize(("value", "problem"), [("x" * (1 << 20), "larger than"), ({1, 2}, "not JSON serializable")])
def test_a_remote_result_that_cant_travel_is_said_so(ranks: Ranks, value: object, problem: str) -> None:
    ended = ranks.run(lambda value: value, env={"KFASYNC_REPORT": "stdout"}, value=value)
    assert ended.code == 0
    assert problem in ended.record["result_error"]
    assert ended.stdout == ""


def test_a_report_opens_nothing_for_longer_than_its_write(lines: Callable[[], list[dict[str, Any]]]) -> None:
    before = os.listdir("/proc/self/fd")
    report(loss=1)
    assert os.listdir("/proc/self/fd") == before
