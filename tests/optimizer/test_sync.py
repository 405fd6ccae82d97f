"""OptimizerClient: the async client's methods, Kubeflow's names and defaults, and Kubeflow's import paths."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import (
    AskTellStudy,
    AsyncOptimizerClient,
    OptimizationJob,
    OptimizerClient,
    Result,
    Search,
    StudyHandle,
    TrainJobTemplate,
    TrialConfig,
)
from kfasync.optimizer._asked import AskTellStudy as AsyncAskTellStudy
from kfasync.optimizer._handle import StudyHandle as AsyncStudyHandle
from kfasync.trainer import CustomTrainer
from tests.optimizer.functions import square
from tests.trainer.test_signatures import _ASYNC_ONLY, _blocking, _methods, _shape


@pytest.mark.parametrize(
    ("real", "twin"),
    [
        (AsyncOptimizerClient, OptimizerClient),
        (AsyncStudyHandle, StudyHandle),
        (AsyncAskTellStudy, AskTellStudy),
    ],
)
def test_the_signatures_of_the_twins_are_equal(real: type, twin: type) -> None:
    ours, theirs = _methods(twin), _methods(real)
    assert ours.keys() == theirs.keys() - _ASYNC_ONLY
    for name in ours.keys() - {"__init__"}:
        assert _shape(ours[name]) == _shape(theirs[name]), name
        theirs_returns = re.sub(r"Opening\[(.*)\]", r"\1", _blocking(theirs[name].return_annotation))
        assert ours[name].return_annotation == theirs_returns, name


def test_the_clients_are_made_alike() -> None:
    assert _shape(_methods(OptimizerClient)["__init__"]) == _shape(_methods(AsyncOptimizerClient)["__init__"])


def test_the_twin_blocks_and_the_real_one_awaits() -> None:
    # What these give is awaited or entered.
    for name in _methods(OptimizerClient).keys() - {"__init__", "submit", "study"}:
        assert not inspect.iscoroutinefunction(getattr(OptimizerClient, name))
        real = getattr(AsyncOptimizerClient, name)
        assert inspect.iscoroutinefunction(real) or inspect.isasyncgenfunction(real)


#: What the SDK's own code and documentation import.
_IMPORTS = """
from kubeflow.optimizer import GridSearch, KubernetesBackendConfig, Objective, OptimizationJob, OptimizerClient
from kubeflow.optimizer import RandomSearch, Result, Search, TrainJobTemplate, TrialConfig
from kubeflow.optimizer import *
from kubeflow.optimizer.api.optimizer_client import OptimizerClient
from kubeflow.optimizer.constants import constants
from kubeflow.optimizer.types.algorithm_types import ALGORITHM_REGISTRY, BaseAlgorithm, GridSearch, RandomSearch
from kubeflow.optimizer.types.optimization_types import Direction, Metric, Objective, OptimizationJob, Result, Trial
from kubeflow.optimizer.types.optimization_types import TrialConfig
from kubeflow.optimizer.types.search_types import CategoricalSearchSpace, ContinuousSearchSpace, Distribution, Search
"""


@pytest.mark.parametrize("line", _IMPORTS.strip().splitlines())
def test_kubeflow_imports_work_with_the_root_changed(line: str) -> None:
    exec(line.replace("kubeflow.", "kfasync."), {})


_DUMP = """
import dataclasses, enum, importlib, inspect, json, sys
root = sys.argv[1] + ".optimizer"
paths = ["types.algorithm_types", "types.optimization_types", "types.search_types", "constants.constants"]
report = {"fields": {}, "enums": {}, "methods": {}, "constants": {}}

def plain(value):
    if isinstance(value, enum.Enum):
        return value.value
    return sorted(value) if isinstance(value, (set, frozenset)) else value

def parameters(function):
    return [[p.name, p.kind.name, "required" if p.default is p.empty else plain(p.default)]
            for p in inspect.signature(function).parameters.values()]

for path in paths:
    module = importlib.import_module(f"{root}.{path}")
    for name, value in vars(module).items():
        if name.isupper() and isinstance(value, str):
            report["constants"][name] = value
        if not isinstance(value, type) or not value.__module__.startswith(root):
            continue
        if issubclass(value, enum.Enum):
            report["enums"][name] = {m.name: m.value for m in value}
        elif dataclasses.is_dataclass(value):
            report["fields"][name] = parameters(value)
        else:
            report["methods"].update({f"{name}.{k}": parameters(getattr(value, k)) for k in vars(value) if k[0] != "_"
                                      and callable(getattr(value, k))})
client = importlib.import_module(root).OptimizerClient
for name, method in vars(client).items():
    if callable(method) and (not name.startswith("_") or name == "__init__"):
        report["methods"][name] = parameters(method)
print(json.dumps(report, default=repr))
"""


def _report(root: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", _DUMP, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def reports() -> tuple[dict[str, Any], dict[str, Any]]:
    """What the installed Kubeflow SDK offers, and what we do."""
    if importlib.util.find_spec("kubeflow") is None:
        if "kubeflow" in os.environ.get("KFASYNC_TEST_ENGINES", ""):
            pytest.fail("the Kubeflow SDK is not installed")
        pytest.skip("the Kubeflow SDK is not installed: pip install kubeflow==0.5.0")
    return _report("kubeflow"), _report("kfasync")


@pytest.mark.parametrize("part", ["fields", "methods"])
def test_arguments_defaults_and_positions_are_those_of_kubeflow(
    reports: tuple[dict[str, Any], dict[str, Any]], part: str
) -> None:
    theirs, ours = reports[0][part], reports[1][part]
    assert theirs
    for name, parameters in theirs.items():
        # Ours may have more arguments behind theirs, and a default where theirs have none.
        for their, our in zip(parameters, ours[name], strict=False):
            assert our[:2] == their[:2], name
            assert their[2] in ("required", our[2]), name
        assert len(ours[name]) >= len(parameters), name


def test_enums_and_constants_are_those_of_kubeflow(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    theirs, ours = reports
    assert theirs["enums"].items() <= ours["enums"].items()
    assert theirs["constants"].items() <= ours["constants"].items()


def test_a_study_from_a_script_that_blocks(home: Path) -> None:
    client = OptimizerClient(LocalProcessBackendConfig())
    seen: list[tuple[str, threading.Thread]] = []

    def hear(job: OptimizationJob) -> None:
        # A callback may use the client.
        seen.append((client.get_job(job.name).name and job.status, threading.current_thread()))

    template = TrainJobTemplate(trainer=CustomTrainer(func=square))
    name = client.optimize(template, search_space={"x": Search.uniform(0, 1)}, trial_config=TrialConfig(3, 2))
    job = client.wait_for_job_status(name, callbacks=[hear])
    assert (job.status, seen[-1][0]) == ("Complete", "Complete")
    assert {thread for _, thread in seen} == {threading.current_thread()}
    best = client.get_best_results(name)
    assert isinstance(best, Result)
    assert list(client.get_job_logs(name)) == [f"loss={best.parameters['x'] ** 2}"]
    assert [each.name for each in client.list_jobs()] == [name]
    assert client.get_job_events(name)[-1].reason == "Complete"
    client.delete_job(name)
    assert client.list_jobs() == []
