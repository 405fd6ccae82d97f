"""The blocking twins have the methods, arguments and defaults of the async ones."""

from __future__ import annotations

import inspect
import re

import pytest

from kfasync.engine import JobHandle as AsyncJobHandle
from kfasync.trainer import AsyncTrainerClient, JobHandle, TrainerClient

#: What only the async client needs: the blocking one shares its engine and has nothing to close.
_ASYNC_ONLY = {"aclose"}


def _methods(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value)
        for name, value in vars(cls).items()
        if inspect.isfunction(value) and (not name.startswith("_") or name == "__init__")
    }


def _blocking(annotation: object) -> str:
    """The blocking form of an async method's annotation."""
    text = re.sub(r"AsyncGenerator\[(.*), None\]", r"Iterator[\1]", str(annotation))
    return text.replace("AsyncJobHandle", "JobHandle")


def _shape(signature: inspect.Signature) -> list[tuple[str, object, object, str]]:
    return [(p.name, p.kind, p.default, _blocking(p.annotation)) for p in signature.parameters.values()]


@pytest.mark.parametrize(("real", "twin"), [(AsyncTrainerClient, TrainerClient), (AsyncJobHandle, JobHandle)])
def test_the_signatures_of_the_twins_are_equal(real: type, twin: type) -> None:
    ours, theirs = _methods(twin), _methods(real)
    assert ours.keys() == theirs.keys() - _ASYNC_ONLY
    for name in ours.keys() - {"__init__"}:
        assert _shape(ours[name]) == _shape(theirs[name]), name
        assert ours[name].return_annotation == _blocking(theirs[name].return_annotation), name


def test_the_clients_are_made_alike() -> None:
    assert _shape(_methods(TrainerClient)["__init__"]) == _shape(_methods(AsyncTrainerClient)["__init__"])


def test_the_twin_blocks_and_the_real_one_awaits() -> None:
    for name in _methods(TrainerClient).keys() - {"__init__"}:
        assert not inspect.iscoroutinefunction(getattr(TrainerClient, name))
        real = getattr(AsyncTrainerClient, name)
        assert inspect.iscoroutinefunction(real) or inspect.isasyncgenfunction(real)
