"""Ask and tell."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfasync.errors import InvalidSpecError, MissingExtraError, TransitionError
from kfasync.optimizer import (
    ASHA,
    NSGAII,
    TPE,
    Algorithm,
    CmaEs,
    EarlyStopping,
    GaussianProcess,
    GridSearch,
    Hyperband,
    MedianStop,
    Objective,
    Patient,
    RandomSearch,
    Search,
    SearchSpace,
    Sobol,
)
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._parameter import ParameterSpec
from kfasync.optimizer._sampler import Sampler
from tests.optimizer.spaces import CONTINUOUS, STEPPED, parameters

LOSS = [Objective()]
BOTH = [Objective("loss"), Objective("accuracy", "maximize")]
PLANE = SearchSpace({"x": Search.uniform(-1, 1), "y": Search.uniform(-1, 1)})
MIXED = SearchSpace(
    {
        "kind": Search.choice(["a", "b", "c"]),
        "x": Search.uniform(-1, 1),
        "n": Search.int(1, 50),
        "q": Search.quniform(0, 1, 0.1),
        "g": Search.normal(0, 1),
        "only": Search.loguniform(0.1, 10).when("kind", ["a", "b"]),
    }
)
FAST = [RandomSearch(5), TPE(5), TPE(5, group=True), CmaEs(5, popsize=4), Sobol(5), NSGAII(5, population_size=4)]


def loss(point: Any) -> dict[str, float]:
    return {"loss": sum(v * v for v in point.values() if isinstance(v, float)), "accuracy": point.get("x", 0.0)}


def asked(sampler: Sampler, number: int, point: Any = None) -> dict[str, Any]:
    got = sampler.ask(number, point)
    assert got is not None
    return got


def run(sampler: Sampler, numbers: range) -> list[dict[str, Any]]:
    points = []
    for number in numbers:
        points.append(asked(sampler, number))
        sampler.tell(number, loss(points[-1]), "complete")
    return points


@given(parameters(STEPPED | CONTINUOUS), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_sampled_values_are_in_bounds_and_typed(specs: dict[str, ParameterSpec], seed: int) -> None:
    space = SearchSpace(specs)
    for algorithm in (RandomSearch(seed), Sobol(seed), TPE(seed, n_startup_trials=1)):
        sampler = Sampler(space, LOSS, algorithm)
        for number in range(4):
            point = asked(sampler, number)
            sampler.tell(number, {"loss": float(number)}, "complete")
            for name, spec in space.parameters.items():
                assert (name in point) == space.active(name, point)
                if name in point:
                    accepted = spec.accept(point[name], name)
                    assert repr(accepted) == repr(point[name])
            assert space.load(json.loads(json.dumps(space.dump(point), allow_nan=False))) == point


@pytest.mark.parametrize("algorithm", FAST, ids=repr)
def test_a_seed_gives_the_same_trials_and_several_objectives_do(algorithm: Algorithm) -> None:
    objectives = BOTH if algorithm.several_objectives else LOSS
    first, second = (run(Sampler(MIXED, objectives, algorithm), range(14)) for _ in range(2))
    assert first == second


def test_without_a_seed_trials_differ() -> None:
    assert run(Sampler(PLANE, LOSS, RandomSearch()), range(3)) != run(Sampler(PLANE, LOSS, RandomSearch()), range(3))


@pytest.mark.parametrize("algorithm", FAST, ids=repr)
def test_the_order_of_tells_between_two_asks_does_not_matter(algorithm: Algorithm) -> None:
    studies = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        sampler = Sampler(MIXED, LOSS, algorithm)
        points = []
        for batch in range(6):
            new = {4 * batch + i: asked(sampler, 4 * batch + i) for i in range(4)}
            for i in order:
                number = 4 * batch + i
                sampler.tell(number, loss(new[number]), "complete" if number % 5 else "failed")
            points += list(new.values())
        studies.append(points)
    assert studies[0] == studies[1]


def test_running_trials_are_kept_away_from() -> None:
    def nearest(algorithm: Algorithm) -> float:
        sampler = Sampler(PLANE, LOSS, algorithm)
        run(sampler, range(40))
        points = [asked(sampler, number) for number in range(40, 48)]
        return sum(min(math.dist(a.values(), b.values()) for b in points if b is not a) for a in points)

    liar = sum(nearest(TPE(seed)) for seed in range(4))
    assert liar > 1.1 * sum(nearest(TPE(seed, constant_liar=False)) for seed in range(4))


def test_a_trial_taken_up_as_running_counts_as_pending() -> None:
    def distance(state: str, seed: int) -> float:
        """How far the next point lies from those taken up, which are where the best results were."""
        sampler = Sampler(PLANE, LOSS, TPE(seed))
        for number in range(40):
            sampler.add(number, {"x": number / 40, "y": number / 40}, "complete", {"loss": float(number)})
        for number in range(40, 60):
            sampler.add(number, {"x": 0.0, "y": 0.0}, state)
        return math.dist(asked(sampler, 60).values(), (0.0, 0.0))

    assert sum(distance("running", seed) for seed in range(9)) > sum(distance("failed", seed) for seed in range(9))


@pytest.mark.parametrize("algorithm", [RandomSearch(4), Sobol(4), Sobol(4, scramble=True)], ids=repr)
def test_a_resumed_study_goes_on_as_if_nothing_had_happened(algorithm: Algorithm) -> None:
    whole = Sampler(MIXED, LOSS, algorithm)
    first, rest = run(whole, range(9)), run(whole, range(9, 14))
    again = Sampler(MIXED, LOSS, algorithm)
    for number, point in enumerate(first):
        again.add(number, point, "complete", loss(point))
    assert run(again, range(9, 14)) == rest


def test_a_resumed_random_search_knows_which_values_were_given() -> None:
    def start() -> tuple[Sampler, list[tuple[dict[str, Any], dict[str, Any]]]]:
        sampler = Sampler(MIXED, LOSS, RandomSearch(4))
        return sampler, [(asked(sampler, n, {"x": 0.5} if n == 1 else None), sampler.notes(n)) for n in range(3)]

    whole, trials = start()
    again = Sampler(MIXED, LOSS, RandomSearch(4))
    for number, (point, notes) in enumerate(json.loads(json.dumps(trials))):
        again.add(number, point, notes=notes)
    assert asked(again, 3) == asked(whole, 3)


@pytest.mark.parametrize("algorithm", [TPE(5), CmaEs(5, popsize=4), NSGAII(5, population_size=4)], ids=repr)
def test_a_resumed_study_repeats_no_trial_and_is_reproducible(algorithm: Algorithm) -> None:
    whole = Sampler(MIXED, LOSS, algorithm)
    first = run(whole, range(13))
    kept = json.loads(json.dumps([whole.notes(number) for number in range(13)]))

    def resumed() -> list[dict[str, Any]]:
        again = Sampler(MIXED, LOSS, algorithm)
        for number, point in enumerate(first):
            again.add(number, point, "complete", loss(point), notes=kept[number])
        return run(again, range(13, 16))

    assert resumed() == resumed()
    # A child of NSGA-II may be its parent's twin.
    assert isinstance(algorithm, NSGAII) or all(point not in first for point in resumed())


def test_cma_es_goes_on_from_its_distribution_after_a_resume() -> None:
    whole = Sampler(PLANE, LOSS, CmaEs(1))
    first = run(whole, range(80))

    def distance(with_notes: bool) -> float:
        again = Sampler(PLANE, LOSS, CmaEs(1))
        for number, point in enumerate(first):
            again.add(number, point, "complete", loss(point), notes=whole.notes(number) if with_notes else None)
        return max(loss(point)["loss"] for point in run(again, range(80, 90)))

    assert 20 * distance(with_notes=True) < distance(with_notes=False)


def test_asha_remembers_the_rungs_after_a_resume() -> None:
    whole = Sampler(PLANE, LOSS, RandomSearch(1), ASHA(1, 2))
    for number in range(4):
        asked(whole, number)
        whole.report(number, 1, float(number))
        whole.should_prune(number)
        whole.tell(number, {"loss": float(number)}, "complete")
    notes = json.loads(json.dumps([whole.notes(number) for number in range(4)]))
    again = Sampler(PLANE, LOSS, RandomSearch(1), ASHA(1, 2))
    for number in range(4):
        point = {"x": 0.0, "y": 0.0}
        again.add(number, point, "complete", {"loss": float(number)}, reports=[(1, float(number))], notes=notes[number])
    again.add(4, {"x": 0.0, "y": 0.0}, "running")
    again.report(4, 1, 9.0)
    assert again.should_prune(4)


@pytest.mark.parametrize(
    ("values", "state", "counts"),
    [
        ({"loss": 1.0}, "complete", "complete"),
        ({"loss": 1, "other": 2}, TrialState.COMPLETE, "complete"),
        ({"loss": math.inf}, "complete", "complete"),
        ({"loss": math.nan}, "complete", "failed"),
        ({"accuracy": 1.0}, "complete", "failed"),
        ({}, "complete", "failed"),
        (None, "complete", "failed"),
        ({"loss": 1.0}, "failed", "failed"),
        (None, "pruned", "pruned"),
    ],
)
def test_a_complete_trial_without_its_objective_is_failed(values: Any, state: Any, counts: str) -> None:
    for algorithm in FAST:
        sampler = Sampler(PLANE, LOSS, algorithm)
        for number in range(6):
            asked(sampler, number)
            assert sampler.tell(number, values, state) == counts
        assert Sampler(PLANE, LOSS, algorithm).add(0, {"x": 0.0, "y": 0.0}, state, values) == counts


def test_one_nan_of_several_objectives_fails_the_trial() -> None:
    sampler = Sampler(PLANE, BOTH, NSGAII(1))
    asked(sampler, 0)
    assert sampler.tell(0, {"loss": 1.0, "accuracy": math.nan}, "complete") == "failed"


@pytest.mark.torch
def test_infinite_objectives_are_values_to_every_algorithm() -> None:
    pytest.importorskip("torch")
    for algorithm in (*FAST, GaussianProcess(1, n_startup_trials=2)):
        sampler = Sampler(PLANE, LOSS, algorithm)
        for number, value in enumerate([1.0, math.inf, -math.inf, math.inf, 0.5]):
            asked(sampler, number)
            sampler.tell(number, {"loss": value}, "complete")
        asked(sampler, 5)


def test_a_late_result_takes_the_place_of_a_failure() -> None:
    def following(late: bool) -> dict[str, Any]:
        sampler = Sampler(PLANE, LOSS, TPE(1, n_startup_trials=3))
        points = [asked(sampler, number) for number in range(6)]
        for number, point in enumerate(points):
            sampler.tell(number, loss(point), "complete" if number or not late else "failed")
        if late:
            assert sampler.tell(0, loss(points[0]), "complete") == "complete"
            assert sampler.tell(0, loss(points[0]), "complete") == "complete"
        return asked(sampler, 6)

    assert following(late=True) == following(late=False)


@pytest.mark.parametrize("algorithm", [NSGAII(1, population_size=2, crossover_prob=0.0), TPE(1), CmaEs(1)], ids=repr)
def test_a_late_result_without_a_conditional_parameter_changes_what_all_have(algorithm: Algorithm) -> None:
    x, y = Search.uniform(0, 1).when("k", 1), Search.uniform(0, 1)
    sampler = Sampler(SearchSpace({"k": Search.choice([1, 2]), "y": y, "x": x}), LOSS, algorithm)
    asked(sampler, 0, {"k": 2})
    sampler.tell(0, None, "failed")
    for number in range(1, 3):
        asked(sampler, number, {"k": 1})
        sampler.tell(number, {"loss": float(number)}, "complete")
    sampler.tell(0, {"loss": -1.0}, "complete")
    for number in range(3, 20):
        asked(sampler, number)


def test_given_values_are_tried_and_the_rest_is_sampled() -> None:
    sampler = Sampler(MIXED, LOSS, TPE(1))
    point = asked(sampler, 0, {"only": 2, "kind": "b", "g": 7.5, "q": 0.1 + 0.2})
    assert (point["only"], point["kind"], point["g"], point["q"]) == (2.0, "b", 7.5, 0.3)
    assert set(point) == set(MIXED.parameters)
    with pytest.raises(InvalidSpecError, match="'n'"):
        sampler.ask(1, {"n": 51})
    asked(sampler, 1)


def test_numbers_ascend_and_a_gap_is_a_failed_trial() -> None:
    sampler = Sampler(PLANE, LOSS, TPE(1))
    asked(sampler, 0)
    asked(sampler, 3)
    sampler.tell(3, {"loss": 1.0}, "complete")
    for number in (0, 2, 3):
        with pytest.raises(TransitionError, match="ascend"):
            sampler.ask(number)
    sampler.tell(2, {"loss": 1.0}, "complete")


def test_a_trial_that_nobody_asked_for_is_a_typed_error() -> None:
    sampler = Sampler(PLANE, LOSS, RandomSearch(1), MedianStop())
    for call in (
        lambda: sampler.tell(0, None, "failed"),
        lambda: sampler.report(0, 1, 1.0),
        lambda: sampler.should_prune(0),
        lambda: sampler.notes(-1),
    ):
        with pytest.raises(TransitionError, match="trial"):
            call()
    asked(sampler, 0)
    with pytest.raises(TransitionError, match="running"):
        sampler.tell(0, None, "running")
    with pytest.raises(ValueError, match="unknown"):
        sampler.tell(0, None, "unknown")


def median(direction: str) -> Sampler:
    sampler = Sampler(PLANE, [Objective("loss", direction)], RandomSearch(1), MedianStop(n_startup_trials=2))
    for number in range(3):
        asked(sampler, number)
        for step in range(4):
            sampler.report(number, step, 1.0)
        sampler.tell(number, {"loss": 1.0}, "complete")
    asked(sampler, 3)
    return sampler


@pytest.mark.parametrize(("direction", "bad", "good"), [("minimize", 2.0, 0.5), ("maximize", 0.5, 2.0)])
def test_a_trial_worse_than_the_median_is_ended(direction: str, bad: float, good: float) -> None:
    sampler = median(direction)
    assert not sampler.should_prune(3)
    sampler.report(3, 0, good)
    assert not sampler.should_prune(3)
    asked(sampler, 4)
    sampler.report(4, 0.9, bad)
    assert sampler.should_prune(4)
    assert sampler.should_prune(4)
    assert sampler.tell(4, None, "pruned") == "pruned"
    assert not sampler.should_prune(4)
    sampler.report(4, 1, good)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_trial_that_reports_only_nan_is_ended(direction: str) -> None:
    sampler = median(direction)
    sampler.report(3, 0, math.nan)
    assert sampler.should_prune(3)


def test_steps_that_are_none_are_passed_over() -> None:
    sampler = median("minimize")
    for step in (-1, math.nan, math.inf):
        sampler.report(3, step, 5.0)
    assert not sampler.should_prune(3)


def test_a_grid_is_asked_in_its_order_until_it_is_used_up() -> None:
    space = SearchSpace({"a": Search.int(1, 2), "b": Search.choice([0.5, math.nan, None]).when("a", 2)})
    sampler = Sampler(space, LOSS, GridSearch())
    assert asked(sampler, 0, {"b": None}) == {"a": 2, "b": None}
    points = list(itertools.takewhile(lambda p: p is not None, (sampler.ask(n) for n in range(1, 9))))
    assert points == [p for p in space.grid() if p.get("b", 0) is not None]
    assert sampler.ask(4) is None
    sampler.tell(1, {"loss": 1.0}, "complete")
    assert asked(sampler, 4, {"a": 1}) == {"a": 1}


def test_a_resumed_grid_leaves_out_what_was_tried() -> None:
    space = SearchSpace({"a": Search.int(1, 4)})
    sampler = Sampler(space, LOSS, GridSearch())
    sampler.add(0, {"a": 1}, "complete", {"loss": 1.0})
    sampler.add(1, {"a": 3}, "failed")
    assert [sampler.ask(n) for n in range(2, 5)] == [{"a": 2}, {"a": 4}, None]


def test_a_trial_whose_suggestion_broke_down_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(MIXED, LOSS, TPE(1, n_startup_trials=1))
    run(sampler, range(3))
    with monkeypatch.context() as patch:
        patch.setattr("optuna.samplers.TPESampler._sample", lambda *_: [][0])
        with pytest.raises(IndexError):
            sampler.ask(3)
    assert sampler.tell(3, None, "failed") == "failed"
    asked(sampler, 4)


def test_what_is_noted_is_json_even_of_infinite_values() -> None:
    sampler = Sampler(PLANE, LOSS, RandomSearch(1), ASHA(1, 2))
    asked(sampler, 0)
    sampler.report(0, 1, math.nan)
    sampler.should_prune(0)
    notes = json.loads(json.dumps(sampler.notes(0), allow_nan=False))
    again = Sampler(PLANE, LOSS, RandomSearch(1), ASHA(1, 2))
    again.add(0, {"x": 0.0, "y": 0.0}, notes=notes)
    assert notes
    assert again.notes(0) == sampler.notes(0)


@pytest.mark.parametrize("algorithm", FAST, ids=repr)
@pytest.mark.parametrize("rule", [MedianStop(2), ASHA(1, 2), Hyperband(1, 6, 2), Patient(ASHA(), 1)], ids=repr)
def test_whatever_happens_to_the_trials_the_search_goes_on(algorithm: Algorithm, rule: EarlyStopping) -> None:
    chance = random.Random(7)
    sampler = Sampler(MIXED, LOSS, algorithm, rule)
    running: list[int] = []
    for number in range(40):
        point = asked(sampler, number, {"x": 0.25} if chance.random() < 0.1 else None)
        assert all((name in point) == MIXED.active(name, point) for name in MIXED.parameters)
        running.append(number)
        for other in running:
            sampler.report(other, chance.randrange(6), chance.choice([chance.random(), math.nan, math.inf, -math.inf]))
        while len(running) > 3:
            ended = running.pop(chance.randrange(len(running)))
            state = "pruned" if sampler.should_prune(ended) else chance.choice(["complete", "failed", "complete"])
            sampler.tell(ended, {"loss": chance.choice([chance.random(), math.inf, math.nan])}, state)
            if chance.random() < 0.2:
                late = chance.randrange(number)
                if late not in running:
                    sampler.tell(late, {"loss": chance.random()}, "complete")
    again = Sampler(MIXED, LOSS, algorithm, rule)
    for number in range(40):
        state = "running" if number in running else "failed"
        again.add(number, {"kind": "c", "x": 0.0}, state, notes=sampler.notes(number))
    asked(again, 40)


def test_nothing_waits_for_a_suggestion_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = median("minimize")
    begun, finish = threading.Event(), threading.Event()
    original = optuna.samplers.RandomSampler.sample_independent

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert finish.wait(60)
        return original(*arguments)

    monkeypatch.setattr(optuna.samplers.RandomSampler, "sample_independent", slow)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(asked, sampler, 4)
        assert begun.wait(60)
        sampler.report(3, 0, 5.0)
        assert sampler.should_prune(3)
        assert sampler.tell(3, None, "pruned") == "pruned"
        assert sampler.notes(3) == {}
        assert not asking.done()
        finish.set()
        assert set(asking.result()) == {"x", "y"}


def test_any_thread_may_call() -> None:
    sampler = Sampler(MIXED, LOSS, TPE(1, n_startup_trials=5), MedianStop())
    with ThreadPoolExecutor(4) as pool:
        points = [pool.submit(asked, sampler, number).result() for number in range(20)]

        def finish(number: int) -> None:
            for step in range(20):
                sampler.report(number, step, float(number))
                sampler.should_prune(number)
            sampler.tell(number, loss(points[number]), "complete")

        list(pool.map(finish, range(20)))
        assert pool.submit(asked, sampler, 20).result()
    fresh = Sampler(MIXED, LOSS, TPE(1, n_startup_trials=5))
    assert [asked(fresh, number) for number in range(20)] == points


def test_nothing_of_optuna_is_loaded_before_a_sampler_is_made() -> None:
    code = """
import sys
import kfasync.optimizer, kfasync.optimizer._sampler
from kfasync.optimizer import TPE, Objective, Search, SearchSpace
from kfasync.optimizer._combine import check_search
from kfasync.optimizer._sampler import Sampler
check_search(SearchSpace({"x": Search.uniform(0, 1)}), [Objective()], TPE())
assert not {"optuna", "numpy", "pydantic", "asyncio", "scipy"} & set(sys.modules)
sys.modules["optuna"] = None
try:
    Sampler(SearchSpace({"x": Search.uniform(0, 1)}), [Objective()], TPE())
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(MissingExtraError.__name__)
    assert "kfasync[optimizer]" in done.stdout
