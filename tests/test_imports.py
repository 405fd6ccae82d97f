"""What an import costs, and what it must not load."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "numpy", "optuna", "aiodocker", "kubernetes_asyncio", "kubernetes", "cyclopts")


def run(code: str) -> str:
    # -I: neither the test's directory nor its environment may help.
    return subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True).stdout


def loaded(statement: str) -> set[str]:
    return set(
        run(f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))").split()
    )


def seconds(statement: str) -> float:
    def once() -> float:
        start = time.perf_counter()
        run(statement)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(5))


def test_importing_the_package_loads_no_heavy_library() -> None:
    assert not loaded("import kfasync") & {*HEAVY, "pydantic", "asyncio", "sqlite3", "structlog", "anyio", "rich"}


def test_importing_report_inside_a_job_loads_the_standard_library_only() -> None:
    ours = loaded("from kfasync import report, progress, should_stop")
    assert not ours & {*HEAVY, "pydantic", "anyio", "structlog", "psutil", "cloudpickle", "platformdirs"}


def test_importing_the_trainer_loads_pydantic_at_most() -> None:
    assert not loaded("from kfasync.trainer import TrainerClient") & {*HEAVY, "structlog", "rich", "sqlite3"}


@pytest.mark.parametrize(
    "package", ["errors", "events", "jobs", "settings", "state", "payload", "backends.base", "engine"]
)
def test_the_layers_below_the_trainer_load_no_pydantic(package: str) -> None:
    assert not loaded(f"import kfasync.{package}") & {*HEAVY, "pydantic"}


# The budgets of benchmarks/import_time.py are 50 ms and 180 ms where a bare start takes 10 ms. Ten times that is what a
# loaded machine may need; more means that something heavy crept in.
@pytest.mark.parametrize(
    ("statement", "starts"), [("import kfasync", 5), ("from kfasync.trainer import TrainerClient", 18)]
)
def test_an_import_stays_within_its_budget(statement: str, starts: int) -> None:
    bare = seconds("pass")
    assert seconds(statement) < 10 * starts * bare
