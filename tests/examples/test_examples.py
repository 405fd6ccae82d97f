"""Every example, run as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a home of these tests' own; the supervisor is gone afterwards."""
    environment = os.environ | {"KFASYNC_HOME": str(tmp_path_factory.mktemp("home")), "PYTHONUNBUFFERED": "1"}
    yield environment
    subprocess.run([sys.executable, "-m", "kfasync.cli", "supervisor", "stop"], env=environment, check=True)


def run(name: str, environment: dict[str, str], cwd: Path) -> list[str]:
    # From another directory: an example must not depend on where it is started.
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout.splitlines()


def test_every_example_has_a_test() -> None:
    tested = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert not [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested]


def test_hello_prints_output_result_and_metrics(home: dict[str, str], tmp_path: Path) -> None:
    lines = run("hello.py", home, tmp_path)
    assert [line.partition(" | ")[2] for line in lines[:4]] == [
        f"epoch {epoch}: the loss is {0.7 ** (epoch + 1):.3f}" for epoch in range(4)
    ]
    assert lines[4:] == ["result: 0.2401", "loss: from 0.700 to 0.240"]


@pytest.mark.torch
def test_quickstart_trains_a_model_that_separates_the_spirals(home: dict[str, str], tmp_path: Path) -> None:
    import torch

    lines = run("quickstart.py", home, tmp_path)
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 30
    accuracy = re.fullmatch(r"accuracy: (.*)%", lines[-2])
    assert accuracy is not None
    assert float(accuracy[1]) > 95
    model = torch.load(lines[-1].removeprefix("model: "), weights_only=True)
    assert model["0.weight"].shape == (64, 2)


@pytest.mark.torch
def test_torch_ddp_trains_three_processes_to_the_same_weights(home: dict[str, str], tmp_path: Path) -> None:
    lines = run("torch_ddp.py", home, tmp_path)
    processes = re.findall(r"\[node-(\d)\] rank (\d) of 3 is process (\d+)", "\n".join(lines))
    assert sorted((node, rank) for node, rank, _ in processes) == [("0", "0"), ("1", "1"), ("2", "2")]
    assert len({pid for *_, pid in processes}) == 3
    results = lines[-3:]
    assert all("'world': 3" in line and "'same': True" in line for line in results)


def test_many_jobs_finds_the_best_of_fifty(home: dict[str, str], tmp_path: Path) -> None:
    lines = run("many_jobs.py", home, tmp_path)
    assert "50 complete" in lines[-2]
    assert re.fullmatch(r"best: learning rate 0\.\d\d with error 0", lines[-1])


def test_reattach_reads_the_whole_log_after_a_kill(home: dict[str, str], tmp_path: Path) -> None:
    lines = run("reattach.py", home, tmp_path)
    assert lines[0].startswith("the first client ended with -9")
    assert lines[1] == "a new client sees it as Running"
    assert lines[2:] == [*(f"  step {step}" for step in range(10)), "result: trained to the end"]


def test_optimize_runs_twelve_trials_and_names_the_best(home: dict[str, str], tmp_path: Path) -> None:
    *trials, best = run("optimize.py", home, tmp_path)
    told = [re.fullmatch(r"(\d+) complete \{'learning_rate': .*, 'momentum': .*\} (\S+)", line) for line in trials]
    losses = [float(each[2]) for each in told if each is not None]
    assert len(losses) == 12
    found = re.search(r"Metric\(name='loss', min=([\d.]+)", best)
    assert found is not None
    assert f"{float(found[1]):.3f}" == f"{min(losses):.3f}"


def test_ask_and_tell_goes_on_with_its_study(home: dict[str, str], tmp_path: Path) -> None:
    first, second = run("ask_tell.py", home, tmp_path), run("ask_tell.py", home, tmp_path)
    # There was nothing left to try.
    assert first == second
    [line] = first
    complete, pruned = map(int, re.findall(r"(\d+) (?:complete|pruned)", line))
    assert complete + pruned == 30
    assert pruned > 0
    loss = re.search(r"latest=([-+.e\d]+)", line)
    assert loss is not None
    assert float(loss[1]) < 0.1


def test_pbt_trains_a_population_whose_best_model_is_older_than_any_trial(home: dict[str, str], tmp_path: Path) -> None:
    *trials, best = run("pbt.py", home, tmp_path)
    told = [re.fullmatch(r"(\S+) from (\S+): (\S+)", line) for line in trials]
    parents = {each[1]: each[2] for each in told if each is not None}
    assert len(parents) == 16
    assert [parent == "nothing" for parent in parents.values()] == [True] * 4 + [False] * 12
    found = re.fullmatch(r"best: (\S+), trained for (\d+) epochs: \[.*\]", best)
    assert found is not None
    ancestors, trial = 0, found[1]
    while parents[trial] != "nothing":
        ancestors, trial = ancestors + 1, parents[trial]
    assert int(found[2]) == 10 * (ancestors + 1) > 10


def test_optunas_tools_read_and_copy_a_study_of_scripts(home: dict[str, str], tmp_path: Path) -> None:
    lines = run("optuna_tools.py", home, tmp_path)
    assert (lines[0], lines[-1]) == ("study Complete", "copied: 8")
    told = [re.fullmatch(r"(\d) COMPLETE \{'x': 0\.\d+, 'depth': [1-8]\} (\d\.\d{4}) 5", line) for line in lines[1:9]]
    losses = {each[1]: float(each[2]) for each in told if each is not None}
    assert len(losses) == 8
    assert lines[9] == f"best: {min(losses, key=lambda number: losses[number])} True"
