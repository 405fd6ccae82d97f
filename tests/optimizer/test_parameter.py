"""Choices, and what all specs share."""

from __future__ import annotations

import dataclasses
import enum
import math

import numpy as np
import pytest

from kfasync.errors import InvalidSpecError
from kfasync.optimizer import CategoricalSearchSpace, Condition, Search
from kfasync.optimizer._parameter import same


class Kind(enum.StrEnum):
    SGD = "sgd"


def test_choices_keep_their_types() -> None:
    spec = Search.choice([16, 0.5, "x", None, True, -math.inf]).checked("c")
    assert [type(choice) for choice in spec.choices] == [int, float, str, type(None), bool, float]


def test_subclasses_and_numpys_numbers_become_plain() -> None:
    spec = Search.choice([np.int64(3), np.float32(0.5), Kind.SGD, np.bool_(True), np.str_("x")]).checked("c")
    assert [type(choice) for choice in spec.choices] == [int, float, str, bool, str]


@pytest.mark.parametrize("choices", [(c for c in (1, 2)), range(1, 3), np.array([1, 2]), {1: 0, 2: 0}.keys()])
def test_choices_come_from_any_ordered_iterable(choices: object) -> None:
    assert Search.choice(choices).checked("c").choices == (1, 2)


@pytest.mark.parametrize(
    "choices",
    [
        *([], [1, 1], [1, 1.0], [1, True], [math.nan, float("nan")], ["a", "a"]),
        *([(1, 2)], [[1]], [1j], [b"x"], [object()], [np.datetime64("2026-01-01")], [np.array([1, 2])]),
        *("adam", b"adam", {"a", "b"}, {"a": 1}, None, 3),
    ],
    ids=repr,
)
def test_choices_that_can_not_be_searched_are_refused_by_name(choices: object) -> None:
    with pytest.raises(InvalidSpecError, match="'optimizer'"):
        Search.choice(choices).checked("optimizer")


@pytest.mark.parametrize("value", [2, True, "16", 16.5, None, [16]])
def test_a_value_that_is_no_choice_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidSpecError, match="'size'"):
        Search.choice([1, 16]).checked("size").accept(value, "size")


def test_a_value_equal_to_a_choice_becomes_the_choice() -> None:
    assert type(Search.choice([1, 16]).checked("size").accept(16.0, "size")) is int
    assert Search.choice([math.nan]).checked("size").accept(float("nan"), "size") is math.nan


def test_nan_is_itself_and_a_bool_is_no_number() -> None:
    assert same(math.nan, float("nan"))
    assert same(1, 1.0)
    assert not same(1, True)
    assert not same(math.nan, "nan")


def test_specs_are_frozen_values() -> None:
    spec = Search.choice([1, 2])
    assert spec == CategoricalSearchSpace((1, 2))
    assert hash(spec) == hash(Search.choice([1, 2]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.choices = (3,)


@pytest.mark.parametrize("values", ["sgd", ["sgd"], ("sgd",), {"sgd"}])
def test_a_condition_takes_a_value_or_several(values: object) -> None:
    spec = Search.uniform(0, 1)
    assert spec.when("optimizer", values).conditions == (Condition("optimizer", ("sgd",)),)
    assert spec.conditions == ()


def test_conditions_add_up() -> None:
    assert len(Search.uniform(0, 1).when("a", 1).when("b", [2, 3]).conditions) == 2
