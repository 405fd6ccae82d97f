"""The door: Kubeflow's names with Kubeflow's arguments."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import inspect
import subprocess
import sys

import pytest

import kfasync.optimizer as ours

needs_kubeflow = pytest.mark.skipif(importlib.util.find_spec("kubeflow") is None, reason="pip install kubeflow==0.5.0")


@needs_kubeflow
@pytest.mark.filterwarnings("ignore")
def test_search_has_kubeflows_methods_with_its_arguments() -> None:
    from kubeflow.optimizer import Search

    for name, method in inspect.getmembers(Search, inspect.isfunction):
        assert list(inspect.signature(getattr(ours.Search, name)).parameters) == list(
            inspect.signature(method).parameters
        )


@needs_kubeflow
@pytest.mark.filterwarnings("ignore")
def test_fields_and_defaults_of_the_types_are_kubeflows() -> None:
    from kubeflow.optimizer.types import algorithm_types, optimization_types, search_types

    for module in (algorithm_types, optimization_types, search_types):
        for name, theirs in vars(module).items():
            mine = getattr(ours, name, None)
            if mine is None or not isinstance(theirs, type) or not theirs.__module__.startswith("kubeflow.optimizer"):
                continue
            if dataclasses.is_dataclass(theirs):
                fields = [f.name for f in dataclasses.fields(theirs)]
                assert [f.name for f in dataclasses.fields(mine) if f.name != "conditions"][: len(fields)] == fields
            elif issubclass(theirs, enum.Enum):
                assert {m.name: m.value for m in mine} == {m.name: m.value for m in theirs}


def test_the_door_opens_without_anything_heavy() -> None:
    code = "import sys, kfasync.optimizer as o; o.Search, o.TPE, o.SearchSpace, o.TrialConfig; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"optuna", "numpy", "torch", "asyncio", "anyio", "pydantic", "scipy", "cmaes"}


def test_search_describes_what_the_user_wrote() -> None:
    assert ours.Search.uniform(0.1, 1) == ours.ContinuousSearchSpace(0.1, 1, ours.Distribution.UNIFORM)
    assert ours.Search.choice([16, 32]) == ours.CategoricalSearchSpace((16, 32))
    assert ours.Search.int(1, 9) == ours.IntegerSearchSpace(1, 9, 1)
    assert ours.Search.logint(1, 9).distribution == "logUniform"
