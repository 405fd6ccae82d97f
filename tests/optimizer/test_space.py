"""The whole search space."""

from __future__ import annotations

import inspect
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings

from kfasync.errors import InvalidSpecError
from kfasync.optimizer import Search, SearchSpace
from kfasync.optimizer._parameter import ParameterSpec
from tests.optimizer.spaces import CONTINUOUS, STEPPED, parameters

OPTIMIZER = Search.choice(["adam", "sgd", "rmsprop"])
MOMENTUM = Search.uniform(0, 1).when("optimizer", ["sgd", "rmsprop"])


@pytest.mark.parametrize("space", [{}, None, [("x", Search.int(0, 1))]])
def test_an_empty_space_is_refused(space: Any) -> None:
    with pytest.raises(InvalidSpecError, match="search space"):
        SearchSpace(space)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"x": 3}, "'x'"),
        ({"x": [1, 2]}, "'x'"),
        ({"x": Search}, "'x'"),
        ({"x": ParameterSpec()}, "'x'"),
        ({3: Search.int(0, 1)}, "3"),
        ({"": Search.int(0, 1)}, "''"),
        ({"a": Search.int(0, 1), "x": Search.int(1, 0)}, "'x'"),
        ({"x": MOMENTUM}, "'x' depends on 'optimizer'"),
        ({"x": Search.int(0, 1).when("x", 1)}, "'x'"),
        ({"x": Search.int(0, 1).when("k", 1), "k": Search.choice(["a"])}, "'x'.*'k'"),
        ({"x": Search.int(0, 1).when("k", 1), "k": Search.choice([True, False])}, "'x'.*'k'"),
        ({"x": Search.int(0, 1).when("k", 3), "k": Search.int(0, 4, 2)}, "'x'.*'k'"),
        ({"x": Search.int(0, 1).when("k", 0.5), "k": Search.uniform(0, 1)}, "'x'.*'k'"),
        ({"x": Search.int(0, 1).when("k", []), "k": Search.int(0, 4)}, "'x'.*'k'"),
        ({"x": Search.int(0, 1).when("y", 1), "y": Search.int(0, 1).when("x", 1)}, "'x', 'y'"),
    ],
    ids=repr,
)
def test_a_space_that_can_not_be_searched_is_refused_by_name(space: Any, named: str) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        SearchSpace(space)


@pytest.mark.parametrize("fixed", [{"lr": 0.1}, ["lr"]])
def test_a_fixed_argument_that_is_also_searched_is_refused(fixed: Any) -> None:
    with pytest.raises(InvalidSpecError, match="'lr'"):
        SearchSpace({"lr": Search.uniform(0, 1)}, fixed)


def test_a_parameter_comes_behind_those_it_depends_on() -> None:
    space = SearchSpace({"momentum": MOMENTUM, "z": Search.int(0, 1), "optimizer": OPTIMIZER, "a": Search.int(0, 1)})
    assert list(space.parameters) == ["z", "optimizer", "momentum", "a"]
    assert space.conditional


def test_a_condition_holds_through_a_chain() -> None:
    space = SearchSpace(
        {
            "a": Search.int(0, 1),
            "b": Search.int(0, 1).when("a", 1),
            "c": Search.int(5, 6).when("b", 1),
        }
    )
    assert space.grid() == [{"a": 0}, {"a": 1, "b": 0}, {"a": 1, "b": 1, "c": 5}, {"a": 1, "b": 1, "c": 6}]


def test_the_grid_is_nested_loops_with_the_last_parameter_innermost() -> None:
    space = SearchSpace({"q": Search.quniform(0, 0.2, 0.1), "c": Search.choice(["y", "x"])})
    assert [tuple(p.values()) for p in space.grid()] == [
        (0.0, "y"),
        (0.0, "x"),
        (0.1, "y"),
        (0.1, "x"),
        (0.2, "y"),
        (0.2, "x"),
    ]


@pytest.mark.parametrize(
    "spec", [Search.uniform(0, 1), Search.loguniform(1, 2), Search.normal(0, 1), Search.lognormal(0, 1)]
)
def test_a_grid_over_a_continuous_range_is_refused_by_name(spec: ParameterSpec) -> None:
    with pytest.raises(InvalidSpecError, match=r"'lr'.*quniform"):
        SearchSpace({"n": Search.int(0, 1), "lr": spec}).grid()


def test_a_grid_too_large_to_run_is_refused_at_once() -> None:
    with pytest.raises(InvalidSpecError, match="1,000,000"):
        SearchSpace({"n": Search.int(0, 2**50)}).grid()


@given(parameters(STEPPED))
@settings(max_examples=60)
def test_a_grid_is_complete_and_has_no_duplicates(specs: dict[str, ParameterSpec]) -> None:
    space = SearchSpace(specs)
    grid = space.grid()
    keys = [tuple((k, repr(v)) for k, v in point.items()) for point in grid]
    assert len(set(keys)) == len(keys)
    for point in grid:
        for name, spec in space.parameters.items():
            assert (name in point) == space.active(name, point)
            if name in point:
                assert repr(spec.accept(point[name], name)) == repr(point[name])
    for name, spec in space.parameters.items():
        if not spec.conditions:
            values = {repr(value) for value in spec.grid() or ()}
            assert {repr(point[name]) for point in grid} == values


@given(parameters(STEPPED | CONTINUOUS))
@settings(max_examples=60)
def test_a_space_survives_json_whoever_sorts_the_keys(specs: dict[str, ParameterSpec]) -> None:
    space = SearchSpace(specs)
    text = json.dumps(space.to_dict(), sort_keys=True, allow_nan=False)
    again = SearchSpace.from_dict(json.loads(text))
    assert again == space
    assert repr(again) == repr(space)


def test_a_point_survives_json_though_nan_is_a_text_too() -> None:
    space = SearchSpace({"c": Search.choice(["nan", math.nan, "inf", math.inf]), "d": Search.choice([None, True])})
    for point in space.grid():
        again = space.load(json.loads(json.dumps(space.dump(point), allow_nan=False)))
        assert again == point


def test_a_type_of_a_newer_version_is_named_and_unknown_keys_are_ignored() -> None:
    data = SearchSpace({"x": Search.int(0, 1)}).to_dict()
    assert SearchSpace.from_dict({"parameters": [{**data["parameters"][0], "new": 1}], "more": 2}).parameters
    with pytest.raises(InvalidSpecError, match=r"'x'.*'beta'"):
        SearchSpace.from_dict({"parameters": [{"name": "x", "type": "beta"}]})


SPACE = SearchSpace(
    {
        "lr": Search.loguniform(0.01, 1),
        "optimizer": OPTIMIZER,
        "momentum": MOMENTUM,
        "nesterov": Search.choice([True, False]).when("optimizer", "sgd"),
    }
)


@pytest.mark.parametrize(
    ("point", "completed"),
    [
        ({}, {}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"nesterov": True}, {"optimizer": "sgd", "nesterov": True}),
        ({"momentum": 0, "optimizer": "rmsprop"}, {"optimizer": "rmsprop", "momentum": 0.0}),
        ({"momentum": 0.5, "nesterov": False}, {"optimizer": "sgd", "momentum": 0.5, "nesterov": False}),
    ],
)
def test_a_point_to_try_is_typed_and_brings_what_it_needs(point: Any, completed: Any) -> None:
    assert repr(SPACE.complete(point)) == repr(completed)


@pytest.mark.parametrize(
    ("point", "named"),
    [
        ({"learning": 1}, "'learning'"),
        ({"lr": 2}, "'lr'"),
        ({"lr": "0.1"}, "'lr'"),
        ({"optimizer": "lbfgs"}, "'optimizer'"),
        ({"momentum": 0.5}, "'momentum'"),
        ({"momentum": 0.5, "optimizer": "adam"}, "'momentum'"),
        ({"nesterov": True, "optimizer": "rmsprop"}, "'nesterov'"),
        ([("lr", 1)], "lr"),
    ],
)
def test_an_impossible_point_is_refused_by_name(point: Any, named: str) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        SPACE.complete(point)


def train(lr: float, *, optimizer: str = "sgd", data: str, momentum: float = 0.0, nesterov: bool = False) -> None: ...


def anything(lr: float, **rest: object) -> None: ...


def positional(lr: float, optimizer: str, momentum: float = 0, /, nesterov: bool = False) -> None: ...


def test_a_function_that_takes_the_parameters_passes() -> None:
    SearchSpace(SPACE.parameters, fixed={"data": "mnist"}).check_function(train)
    SPACE.check_function(anything)
    SPACE.check_function(inspect.signature(anything))
    SPACE.check_function(dict)  # It has no signature to look at.


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (train, "'data'"),
        (lambda: None, "'lr'"),
        (positional, "'lr'"),
        (lambda lr, optimizer, momentum, nesterov=False: None, "'momentum'.*default"),
        (lambda lr, optimizer, momentum=0, nesterov=False, *, extra: None, "'extra'"),
    ],
)
def test_a_function_that_the_trials_could_not_call_is_refused_by_name(function: Any, named: str) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        SPACE.check_function(function)


def test_a_message_says_what_would_do() -> None:
    with pytest.raises(InvalidSpecError, match=re.escape("its choices are ['adam', 'sgd', 'rmsprop']")):
        SPACE.complete({"optimizer": "sdg"})
