"""Who goes on from whom, without jobs: the decisions of population based training."""

from __future__ import annotations

import collections
import json
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfasync.errors import InvalidSpecError, TransitionError
from kfasync.optimizer import PBT, Objective, Search, SearchSpace
from kfasync.optimizer._pbt import Population

LOSS = [Objective("loss")]
SPACE = SearchSpace({"lr": Search.loguniform(1e-4, 1), "size": Search.choice([16, 32, 64, 128])})


def population(size: int = 4, objectives: Any = LOSS, **options: Any) -> Population:
    return Population(SPACE, objectives, PBT(**{"random_state": 1, "population_size": size} | options))


def begun(losses: list[float], **options: Any) -> tuple[Population, list[dict[str, Any]]]:
    """A population whose members have ended their first trials, and what these tried."""
    made = population(len(losses), **options)
    points = [made.ask(number) for number in range(len(losses))]
    for number, loss in enumerate(losses):
        end(made, number, loss)
    return made, points


def end(made: Population, number: int, loss: float | None) -> None:
    made.tell(number, None if loss is None else {"loss": loss}, "failed" if loss is None else "complete")


def place(made: Population, number: int) -> tuple[int, int | None]:
    """A trial's member and the trial that it goes on from."""
    noted = made.notes(number)
    assert noted["parent"] == made.parent(number)
    return noted["member"], noted["parent"]


# -------------------------------------------------------------------- the rule


def test_the_first_trials_begin_the_members_at_random() -> None:
    made, points = begun([1.0, 2.0, 3.0, 4.0])
    assert [place(made, number) for number in range(4)] == [(0, None), (1, None), (2, None), (3, None)]
    assert len({point["lr"] for point in points}) == 4


def test_a_member_that_is_good_enough_goes_on_with_its_own_parameters_and_checkpoint() -> None:
    made, points = begun([1.0, 2.0, 3.0, 4.0])
    for number in (4, 5, 6):
        assert made.ask(number) == points[number - 4]
        assert place(made, number) == (number - 4, number - 4)


def test_the_worst_member_takes_what_the_best_one_has_and_changes_it() -> None:
    made, points = begun([4.0, 2.0, 3.0, 1.0])
    point = made.ask(4)
    assert place(made, 4) == (0, 3)
    best = points[3]
    assert point != best
    # Perturbed, or drawn anew.
    assert point["lr"] in (pytest.approx(best["lr"] * 0.8), pytest.approx(best["lr"] * 1.2)) or point["lr"] > 1e-4
    assert point["size"] in (16, 32, 64, 128)


def test_what_is_greater_is_better_where_the_objective_says_so() -> None:
    made, _ = begun([4.0, 2.0, 3.0, 1.0], objectives=[Objective("loss", "maximize")])
    made.ask(4), made.ask(5), made.ask(6), made.ask(7)
    assert [place(made, number) for number in (4, 7)] == [(0, 0), (3, 0)]


def test_a_quantile_is_a_share_of_the_members_and_one_at_least() -> None:
    for size, quantile, given_up in ((10, 0.2, 2), (10, 0.5, 5), (4, 0.2, 1), (3, 0.5, 1), (2, 0.01, 1), (25, 0.28, 7)):
        made, _ = begun([float(n) for n in range(size)], quantile=quantile)
        taken = []
        for number in range(size, 2 * size):
            made.ask(number)
            member, parent = place(made, number)
            if parent != member:
                taken.append(parent)
        assert len(taken) == given_up, (size, quantile)
        assert max(taken, default=0) < given_up


def test_members_take_from_each_of_the_best() -> None:
    sources = set()
    for seed in range(30):
        made, _ = begun([9.0, *map(float, range(9))], quantile=0.3, random_state=seed)
        made.ask(10)
        sources.add(made.parent(10))
    assert sources == {1, 2, 3}


def test_nobody_gives_up_for_an_equal() -> None:
    made, points = begun([2.0, 2.0, 2.0, 2.0])
    assert [made.ask(number) for number in range(4, 8)] == points


def test_a_member_whose_trial_failed_goes_on_from_another_ones_checkpoint() -> None:
    made, points = begun([1.0, 2.0, 3.0, None])  # type: ignore[list-item]
    for number in (4, 5, 6):
        made.ask(number)
    assert made.ask(7) != points[3]
    assert place(made, 7) == (3, 0)


def test_a_member_whose_last_trial_failed_goes_on_from_another_ones_though_its_own_was_good() -> None:
    made, _ = begun([1.0, 2.0, 3.0, 4.0])
    made.ask(4)
    end(made, 4, None)
    for number in (5, 6, 7):
        made.ask(number)
        end(made, number, float(number))
    made.ask(8)
    assert place(made, 8) == (0, 5)


def test_a_member_that_finds_no_model_at_all_begins_anew() -> None:
    made, points = begun([None, None, None])  # type: ignore[list-item]
    assert made.ask(3) not in points
    assert place(made, 3) == (0, None)
    end(made, 3, 1.0)
    made.ask(4)
    assert place(made, 4) == (1, 3)


def test_the_only_model_is_not_lost_when_its_own_next_trial_fails() -> None:
    made, points = begun([1.0, None])  # type: ignore[list-item]
    made.ask(2)
    end(made, 2, None)
    made.ask(3)
    end(made, 3, None)
    assert (place(made, 2), place(made, 3)) == ((0, 0), (1, 0))
    assert made.ask(4) != points[0]
    assert place(made, 4) == (0, 0)


def test_a_result_that_is_nan_or_missing_is_a_failure_and_an_infinite_one_the_worst() -> None:
    made = population(4)
    for number, told in enumerate([{"loss": math.nan}, {}, {"loss": math.inf}, {"loss": 1.0}]):
        made.ask(number)
        state = made.tell(number, told, "complete")
        assert state.value == ("failed" if number < 2 else "complete")
    for number in range(4, 8):
        made.ask(number)
    assert [place(made, number) for number in range(4, 8)] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_member_is_not_given_up_because_it_is_behind() -> None:
    """Trained longer, the others are better; when they were as young, they were not."""
    made = population(4)
    for number in range(4):
        made.ask(number)
    for number, loss in ((0, 10.0), (1, 12.0), (2, 11.0)):
        end(made, number, loss)
    for number in (4, 5, 6):
        made.ask(number)
        end(made, number, 1.0)
    end(made, 3, 11.5)
    made.ask(7)
    assert place(made, 7) == (3, 3)


def test_a_member_that_gives_up_takes_the_best_model_that_there_is_now() -> None:
    made = population(4)
    for number in range(4):
        made.ask(number)
    for number, loss in ((0, 10.0), (1, 12.0), (2, 11.0)):
        end(made, number, loss)
    for number, loss in ((4, 3.0), (5, 1.0), (6, 2.0)):
        made.ask(number)
        end(made, number, loss)
    end(made, 3, 99.0)
    made.ask(7)
    assert place(made, 7) == (3, 5)
    assert made.notes(7)["stretch"] == made.notes(5)["stretch"] + 1


def test_who_has_waited_longest_goes_on_first() -> None:
    made = population(3)
    for number in range(3):
        made.ask(number)
    for number in (2, 1, 0):
        end(made, number, float(number))
    made.ask(3)
    assert made.notes(3)["member"] == 0


def test_explored_parameters_are_drawn_anew_as_often_as_was_asked() -> None:
    for probability in (0.0, 0.25, 1.0):
        anew = 0
        for seed in range(400):
            made, points = begun([2.0, 1.0], resample_probability=probability, random_state=seed)
            lr, best = made.ask(2)["lr"], points[1]["lr"]
            anew += lr not in (min(best * 0.8, 1), min(best * 1.2, 1), max(best * 0.8, 1e-4))
        assert anew / 400 == pytest.approx(probability, abs=0.06)


# -------------------------------------------------------------------- the calls


def test_the_points_of_a_user_begin_the_first_members() -> None:
    made = population(3)
    assert made.ask(0, {"lr": 0.5, "size": 64}) == {"lr": 0.5, "size": 64}
    partly = made.ask(1, {"size": 16})
    assert (partly["size"], partly.keys()) == (16, {"lr", "size"})
    with pytest.raises(InvalidSpecError, match="'size'"):
        made.ask(2, {"size": 17})


def test_calls_that_make_no_sense_are_refused() -> None:
    made = population(2)
    made.ask(0), made.ask(1)
    with pytest.raises(TransitionError, match="trial 1"):
        made.ask(1)
    with pytest.raises(TransitionError, match="has to wait"):
        made.ask(2)
    for call in (made.parent, made.notes, lambda number: made.tell(number, None, "failed")):
        with pytest.raises(TransitionError, match="trial 7"):
            call(7)


def test_a_trial_is_never_cut_short() -> None:
    made = population(2)
    made.ask(0)
    made.report(0, 1, 1e9)
    assert not made.should_prune(0)


def test_without_a_seed_chances_differ() -> None:
    assert population(random_state=None).ask(0) != population(random_state=None).ask(0)


# -------------------------------------------------------------------- any course of a study


class Course:
    """A study as its events make it: at any time so many trials run, which end in any order and way.

    Now and then the driver dies, and what comes next is decided by one that has been told all that was recorded.
    """

    def __init__(self, draw: Any, size: int, parallel: int) -> None:
        self.draw = draw
        self.algorithm = PBT(random_state=draw(st.integers(0, 99)), population_size=size, quantile=0.3)
        self.made = Population(SPACE, LOSS, self.algorithm)
        self.parallel = parallel
        self.points: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.ends: dict[int, float | None] = {}
        self.running: list[int] = []

    def start(self) -> None:
        number = len(self.points)
        if self.draw(st.booleans()):
            twin = self.resumed()
            asked, noted = twin.ask(number), twin.notes(number)
            assert (self.made.ask(number), self.made.notes(number)) == (asked, noted)
            self.made = twin
        else:
            asked = self.made.ask(number)
        self.points.append(asked)
        self.notes.append(self.made.notes(number))
        self.check(number)
        self.running.append(number)

    def resumed(self) -> Population:
        twin = Population(SPACE, LOSS, self.algorithm)
        for number, point in enumerate(self.points):
            noted = json.loads(json.dumps(self.notes[number]))
            if number in self.running:
                twin.add(number, point, notes=noted)
            else:
                loss = self.ends[number]
                state = "failed" if loss is None else "complete"
                twin.add(number, point, state, None if loss is None else {"loss": loss}, notes=noted)
        return twin

    def finish(self) -> None:
        number = self.running.pop(self.draw(st.integers(0, len(self.running) - 1)))
        self.ends[number] = self.draw(st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf])))
        end(self.made, number, self.ends[number])

    def check(self, number: int) -> None:
        member, parent = self.notes[number]["member"], self.notes[number]["parent"]
        # One trial at a time trains a member.
        assert all(self.notes[other]["member"] != member for other in self.running)
        own = max((n for n in range(number) if self.notes[n]["member"] == member), default=None)
        if parent is None:
            return
        # There is a checkpoint, whole and for good.
        assert self.ends[parent] is not None
        assert self.notes[number]["stretch"] == self.notes[parent]["stretch"] + 1
        if own is not None and self.ends[own] is not None and parent != own:
            assert self.ends[parent] < self.ends[own]  # type: ignore[operator]
        if parent == own:
            assert self.points[number] == self.points[parent]


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_no_slot_ever_waits_and_every_trial_goes_on_from_a_whole_checkpoint(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 6))
    course = Course(data.draw, size, data.draw(st.integers(1, size)))
    while len(course.points) < 5 * size:
        while len(course.running) < course.parallel:
            course.start()
        course.finish()
    members = collections.Counter(noted["member"] for noted in course.notes)
    assert set(members) == set(range(size))
    if course.parallel == 1:
        assert max(members.values()) - min(members.values()) <= 1


# -------------------------------------------------------------------- what it is for


def surrogate(point: dict[str, Any], theta: list[float], steps: int) -> list[float]:
    """Jaderberg et al. 2017, section 4.1: ascent on 1.2 - (h0 x0² + h1 x1²), where 1.2 - (x0² + x1²) is wanted."""
    for _ in range(steps):
        theta = [x - 0.02 * 2 * h * x for x, h in zip(theta, (point["h0"], point["h1"]), strict=True)]
    return theta


def test_a_population_finds_what_no_single_trial_can() -> None:
    space = SearchSpace({"h0": Search.uniform(0, 1), "h1": Search.uniform(0, 1)})
    trials, steps = 40, 10
    for seed in range(10):
        made = Population(space, LOSS, PBT(population_size=4, random_state=seed))
        models: dict[int, list[float]] = {}
        best = math.inf
        for number in range(trials):
            point = made.ask(number)
            parent = made.parent(number)
            models[number] = surrogate(point, [0.9, 0.9] if parent is None else models[parent], steps)
            best = min(best, sum(x * x for x in models[number]))
            made.tell(number, {"loss": sum(x * x for x in models[number])}, "complete")
        # The best that a trial can do from the start, whatever its parameters.
        bound = sum(x * x for x in surrogate({"h0": 1.0, "h1": 1.0}, [0.9, 0.9], steps))
        assert best < bound / 4


def test_a_seed_gives_the_same_study() -> None:
    def study() -> list[dict[str, Any]]:
        made, chance = population(3), Random(5)
        points = []
        for number in range(20):
            points.append(made.ask(number))
            end(made, number, chance.random())
        return points

    assert study() == study()
