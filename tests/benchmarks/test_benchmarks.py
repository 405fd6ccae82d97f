"""Each benchmark runs, in a tiny configuration, and prints what the README's table needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# Limits are ten times the claims: a loaded machine may be slow, a defect is slower. Figures without a claim have none.
SCRIPTS: dict[str, tuple[list[str], dict[str, float]]] = {
    "start_latency.py": (["--repeats", "3"], {"kfasync": 200}),
    "exit_latency.py": (["--repeats", "3"], {"kfasync, async": 50, "kfasync, blocking": 80}),
    "failure_latency.py": (["--repeats", "3"], {"kfasync": 100}),
    "throughput.py": (["--repeats", "1", "--jobs", "10"], {}),
    "gloo_allreduce.py": (["--repeats", "2"], {"kfasync": 2000}),
    "cold_start.py": (["--repeats", "1"], {"kfasync, with torch": 22, "kfasync, without torch": 6}),
    "follow_latency.py": (["--repeats", "10"], {"kfasync": 100}),
    "memory.py": (["--jobs", "20"], {"client, 20 jobs queued or running": 1500, "supervisor, idle": 700}),
    "import_time.py": (["--repeats", "2"], {"kfasync: TrainerClient": 1800, "kfasync: import kfasync": 500}),
    "flood.py": (["--repeats", "1", "--megabytes", "5"], {"kfasync, client's largest RSS": 1200}),
    "study_throughput.py": (["--repeats", "1", "--trials", "6"], {}),
    "study_slot_idle.py": (["--trials", "6", "--history", "12"], {"kfasync, random": 150, "kfasync, TPE at 12": 150}),
    "study_cold_start.py": (["--repeats", "1"], {"kfasync, with torch": 24, "kfasync, without torch": 9}),
    "study_driver_killed.py": (["--repeats", "1"], {"kfasync, trials run again": 1}),
    "study_record.py": (["--trials", "200"], {"kfasync, resumed": 20}),
    "study_loop_block.py": (["--trials", "60", "--asks", "10"], {"kfasync, longest block": 200}),
    "study_quality.py": (["--seeds", "2", "--mlp", "2", "--trials", "15"], {}),
}


def run(script: str, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--no-rivals", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_every_script_has_a_smoke_test() -> None:
    assert {path.name for path in BENCHMARKS.glob("[!_]*.py")} == set(SCRIPTS)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_prints_ours_and_the_limit_within_a_wide_margin(script: str) -> None:
    arguments, limits = SCRIPTS[script]
    report = run(script, arguments)
    medians = {figure["who"]: figure["median"] for figure in report["figures"]}
    assert report["claim"]
    assert report["machine"]
    assert any(who.startswith("limit: ") for who in medians)
    assert all(median is not None for median in medians.values())
    for who, limit in limits.items():
        assert medians[who] < limit


def test_the_table_is_aligned_and_has_median_and_90th_percentile() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "import_time.py"), "--repeats", "2", "--no-rivals"],
        capture_output=True,
        text=True,
        check=True,
    )
    head, *rows = done.stdout.splitlines()[3:]
    assert head.split() == ["who", "n", "median", "p90", "unit", "note"]
    end = head.index("median") + len("median")
    assert rows
    assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)
