"""Random points without Optuna: the same numbers, without the import."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from kfasync.optimizer import GridSearch, Objective, RandomSearch, Search, SearchSpace
from kfasync.optimizer._draws import Draws
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._optuna import Fed
from kfasync.optimizer._parameter import ParameterSpec
from kfasync.optimizer._ranges import QuantizedSearchSpace
from kfasync.optimizer._sampler import Sampler
from tests.optimizer.spaces import CONTINUOUS, STEPPED, parameters

LOSS = (Objective(),)


def optunas(space: SearchSpace, seed: int) -> Fed:
    return Fed(space, LOSS, RandomSearch(seed), None, "study")


def same(point: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal to the last bit; nan is a choice like others, and True is not 1."""
    return repr(point) == repr(other)


# One step, of which Optuna's decimals make a bit less than one.
@example({"a": QuantizedSearchSpace(min=4.7853940445496175, max=4.935394044549618, q=0.1)}, 0)
@given(parameters(st.one_of(STEPPED, CONTINUOUS)), st.integers(0, 2**32 - 1))
def test_points_are_optunas_to_the_last_bit(specs: dict[str, ParameterSpec], seed: int) -> None:
    space = SearchSpace(specs)
    ours, theirs = Draws(space, seed), optunas(space, seed)
    for _ in range(5):
        assert same(ours.suggest({}), theirs.suggest({}))


@given(st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_a_given_value_takes_no_random_number_from_the_others(seed: int, size: int) -> None:
    space = SearchSpace({"x": Search.uniform(0, 1), "size": Search.int(0, 20), "kind": Search.choice(["a", "b", "c"])})
    ours, theirs = Draws(space, seed), optunas(space, seed)
    for fixed in ({"size": size}, {}, {"x": 0.5, "kind": "b"}, {}):
        assert same(ours.suggest(fixed), theirs.suggest(fixed))


def test_it_keeps_who_has_ended_and_what_was_given_and_nothing_else() -> None:
    draws = Draws(SearchSpace({"x": Search.uniform(0, 1)}), 1)
    draws.append(TrialState.COMPLETE, {"x": 0.5}, [1.0])
    draws.suggest({"x": 0.25})
    draws.suggest({})
    draws.report(1, 0, 3.0)
    assert [draws.ended(number) for number in range(draws.count)] == [True, False, False]
    draws.end(1, TrialState.FAILED, None)
    assert draws.ended(1)
    assert not draws.prunes(2)
    assert [draws.noted(number) for number in range(3)] == [{}, {"fixed_params": {"x": 0.25}}, {}]


def test_a_random_or_grid_search_loads_no_optuna_and_no_numpy() -> None:
    code = """
import sys
from kfasync.optimizer import GridSearch, Objective, RandomSearch, Search, SearchSpace
from kfasync.optimizer._sampler import Sampler
space = SearchSpace({"x": Search.int(1, 3)})
for algorithm in (RandomSearch(0), GridSearch()):
    sampler = Sampler(space, [Objective()], algorithm)
    assert sampler.ask(0)
    sampler.tell(0, {"loss": 1.0}, "complete")
assert not {"optuna", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_grid_is_given_point_by_point() -> None:
    sampler = Sampler(SearchSpace({"x": Search.int(1, 3)}), LOSS, GridSearch())
    assert [sampler.ask(number) for number in range(4)] == [{"x": 1}, {"x": 2}, {"x": 3}, None]
