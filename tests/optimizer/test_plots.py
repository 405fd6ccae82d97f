"""Figures of studies, by what is in them: every kind of trial, space and value, and what can't be drawn."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfasync.errors import InvalidSpecError, PlotError
from kfasync.optimizer import Objective, OptimizationJob, Search, Trial
from kfasync.optimizer._axes import Axis
from tests.optimizer.views import HOSTILE, losses, study, trial

_ALL = ("history", "parallel_coordinates", "importances", "slice", "intermediate")


def traces(figure: Any) -> dict[str, dict[str, Any]]:
    """The traces of a figure by name, as a browser gets them."""
    return {each.get("name", str(number)): each for number, each in enumerate(json.loads(figure.to_json())["data"])}


def note(figure: Any) -> str:
    return " ".join(each["text"] for each in json.loads(figure.to_json())["layout"].get("annotations", ()))


# -------------------------------------------------------------------- history


def test_history_shows_each_trial_that_has_a_value_and_the_best_so_far() -> None:
    job = study(*losses(3.0, 5.0, 1.0), trial(3, "pruned", metrics={"loss": 0.5}), trial(4, "failed"),
                trial(5, "running"), trial(6, metrics={"loss": 2.0}))  # fmt: skip
    drawn = traces(job.plot.history())
    assert drawn["complete"]["x"] == [0, 1, 2, 6]
    assert drawn["complete"]["y"] == [3.0, 5.0, 1.0, 2.0]
    # What a pruned trial reached does not count.
    assert (drawn["pruned"]["x"], drawn["pruned"]["y"]) == ([3], [0.5])
    assert drawn["best so far"]["y"] == [3.0, 3.0, 1.0, 1.0]
    assert set(drawn) == {"complete", "pruned", "best so far"}


def test_history_has_a_row_an_objective_each_with_its_own_better() -> None:
    trials = [trial(number, metrics={"a": a, "b": b}) for number, (a, b) in enumerate([(1, 1), (2, 2), (0, 3)])]
    job = study(*trials, objectives=[Objective("a", "minimize"), Objective("b", "maximize")])
    found = [each["y"] for each in json.loads(job.plot.history().to_json())["data"] if each["name"] == "best so far"]
    assert found == [[1, 1, 0], [1, 2, 3]]


def test_infinite_values_are_not_drawn_and_the_figure_says_how_many_there_are() -> None:
    job = study(*losses(3.0, math.inf, 1.0, -math.inf))
    assert traces(job.plot.history())["complete"]["y"] == [3.0, 1.0]
    for figure in (job.plot.history(), job.plot.slice(), job.plot.parallel_coordinates(), job.plot.importances()):
        assert note(figure) == "2 infinite values are not drawn"


# -------------------------------------------------------------------- slices and parallel coordinates


def test_a_slice_has_the_trials_that_have_its_parameter_on_the_axis_of_its_space() -> None:
    figure = json.loads(study(*losses(1.0, 2.0, 3.0, 4.0)).plot.slice().to_json())
    lr, size, kind, momentum = figure["data"]
    assert (lr["x"], lr["y"]) == ([0.1, 0.01, 0.001, 0.0001], [1.0, 2.0, 3.0, 4.0])
    assert (figure["layout"]["xaxis"]["type"], figure["layout"]["xaxis"]["dtick"]) == ("log", 1)
    assert "type" not in figure["layout"]["xaxis2"]
    assert size["x"] == [1, 2, 3, 4]
    assert kind["x"] == [0, 1, 2, 0]
    assert figure["layout"]["xaxis3"]["ticktext"] == ["sgd", "adam", "None"]
    assert (momentum["x"], momentum["y"]) == ([0.5, 0.5], [1.0, 4.0])


def test_parallel_axes_have_a_place_for_what_is_missing_below_all_others() -> None:
    (drawn,) = json.loads(study(*losses(1.0, 2.0, 3.0)).plot.parallel_coordinates().to_json())["data"]
    lr, _, kind, momentum, loss = drawn["dimensions"]
    assert lr["values"] == [-1.0, -2.0, -3.0]
    assert lr["ticktext"] == ["0.001", "0.01", "0.1"]
    # None is a choice like others, and not what is missing.
    assert (kind["values"], kind["ticktext"]) == ([0, 1, 2], ["sgd", "adam", "None"])
    there, *missing = momentum["values"]
    assert missing[0] == missing[1] < there
    assert dict(zip(momentum["tickvals"], momentum["ticktext"], strict=True))[missing[0]] == "(none)"
    assert loss["values"] == [1.0, 2.0, 3.0]
    assert drawn["line"]["color"] == [1.0, 2.0, 3.0]
    assert drawn["line"]["reversescale"] is True


@pytest.mark.parametrize("spec", [
    Search.uniform(-1, 1), Search.loguniform(1e-9, 1e9), Search.int(-5, 5), Search.logint(1, 10**6),
    Search.quniform(0, 1, 0.1), Search.normal(0, 1), Search.lognormal(0, 1), Search.choice([1]),
    Search.choice([True, "True", None, math.nan, math.inf]),
])  # fmt: skip
def test_every_kind_of_parameter_is_drawn(spec: Any) -> None:
    space = study(space={"p": spec}).search_space
    points = list(space["p"].grid() or [space["p"].accept(1, "p")])[:5] * 2
    trials = [trial(n, parameters={"p": point}, metrics={"loss": float(n)}) for n, point in enumerate(points)]
    job = study(*trials, space={"p": spec})
    for name in ("slice", "parallel_coordinates", "importances"):
        getattr(job.plot, name)().to_json()


def test_an_axis_within_one_magnitude_keeps_the_digits_between() -> None:
    assert "dtick" not in Axis("x", log=True).cartesian([1.0, None, 5.0])
    assert Axis("x", log=True).cartesian([])["type"] == "log"


def test_an_axis_of_one_value_is_wide_enough_to_be_seen() -> None:
    found = Axis("x").parallel([2.0, 2.0])
    assert found["range"] == [1.5, 2.5]
    assert Axis("x").parallel([None, None])["values"] == [-0.25, -0.25]


# -------------------------------------------------------------------- importances


def test_importances_tell_the_parameter_that_decides_from_those_that_do_not() -> None:
    space = {name: Search.uniform(0, 1) for name in ("decides", "a", "b")}
    points = [{"decides": n / 40, "a": n * 7 % 40 / 40, "b": n * 11 % 40 / 40} for n in range(40)]
    trials = [trial(n, parameters=p, metrics={"loss": p["decides"] ** 2}) for n, p in enumerate(points)]
    (bars,) = json.loads(study(*trials, space=space).plot.importances().to_json())["data"]
    assert sum(bars["x"]) == pytest.approx(1)
    figure = json.loads(study(*trials, space=space).plot.importances().to_json())
    assert figure["layout"]["yaxis"]["ticktext"][-1] == "decides"
    assert bars["x"][-1] > 0.6


def test_importances_of_each_objective_are_its_own() -> None:
    space = {"x": Search.uniform(0, 1), "y": Search.uniform(0, 1)}
    points = [{"x": n / 30, "y": n * 7 % 30 / 30} for n in range(30)]
    trials = [trial(n, parameters=p, metrics={"a": p["x"], "b": p["y"]}) for n, p in enumerate(points)]
    job = study(*trials, space=space, metrics=("a", "b"))
    for objective, decides in (("a", "x"), ("b", "y")):
        figure = json.loads(job.plot.importances(objective).to_json())
        assert figure["layout"]["yaxis"]["ticktext"][-1] == decides


def test_importances_of_trials_that_do_not_differ_say_so() -> None:
    for trials in (losses(1.0), losses(1.0, 1.0, math.inf)):
        with pytest.raises(PlotError, match="wait until two complete trials differ"):
            study(*trials).plot.importances()


# -------------------------------------------------------------------- several objectives


def _points(*points: Sequence[float]) -> list[Trial]:
    return [trial(n, metrics=dict(zip("abcd", point, strict=False))) for n, point in enumerate(points)]


def test_pareto_tells_the_front_from_what_is_beaten() -> None:
    job = study(*_points((1, 3), (2, 2), (3, 3), (math.inf, 0)), metrics=("a", "b"))
    figure = job.plot.pareto()
    drawn = traces(figure)
    assert (drawn["Pareto front"]["x"], drawn["Pareto front"]["y"]) == ([1, 2], [3, 2])
    assert (drawn["beaten"]["x"], drawn["beaten"]["y"]) == ([3], [3])
    assert note(figure) == "1 infinite value is not drawn"


def test_pareto_shows_three_of_four_objectives_and_takes_orders() -> None:
    job = study(*_points((1, 2, 3, 4), (2, 1, 3, 4)), metrics=("a", "b", "c", "d"))
    assert {each["type"] for each in traces(job.plot.pareto()).values()} == {"scatter3d"}
    assert traces(job.plot.pareto("d", "a"))["Pareto front"]["x"] == [4, 4]
    with pytest.raises(InvalidSpecError, match="two or three"):
        job.plot.pareto("a")
    with pytest.raises(InvalidSpecError, match="'e' is no objective of 'demo'"):
        job.plot.pareto("a", "e")


def test_pareto_of_one_objective_says_where_to_look() -> None:
    with pytest.raises(PlotError, match="history"):
        study(*losses(1.0)).plot.pareto()


# -------------------------------------------------------------------- intermediate values


def test_intermediate_values_are_a_trace_a_state_and_one_for_the_best() -> None:
    curve = [(0.0, 2.0), (1.0, math.nan), (2.0, math.inf), (3.0, 1.0)]
    job = study(
        *losses(3.0, 1.0, 2.0, curves={"loss": curve}),
        trial(3, "pruned", curves={"loss": curve[:1], "acc": curve}),
        trial(4, "running", curves={}),
    )
    figure = job.plot.intermediate()
    drawn = traces(figure)
    assert set(drawn) == {"complete", "pruned", "best"}
    assert drawn["best"]["x"] == [0.0, 1.0, 2.0, 3.0, None]
    # nan is a gap; so is what is infinite, which the figure says.
    assert drawn["best"]["y"] == [2.0, None, None, 1.0, None]
    assert note(figure) == "3 infinite values are not drawn"
    assert drawn["complete"]["customdata"] == [0] * 5 + [2] * 5
    assert drawn["pruned"]["mode"] == "lines+markers"
    assert set(traces(job.plot.intermediate("acc"))) == {"pruned"}


def test_a_view_without_curves_says_where_to_get_them() -> None:
    with pytest.raises(PlotError, match=r"client\.get_job\('demo'\)"):
        study(*losses(1.0)).plot.intermediate()
    with pytest.raises(PlotError, match="no trial of 'demo' has reported 'acc' so far"):
        study(*losses(1.0, curves={})).plot.intermediate("acc")


# -------------------------------------------------------------------- what they share


@pytest.mark.parametrize("name", [*_ALL, "pareto"])
@pytest.mark.parametrize("trials", [[], [trial(0, "failed", curves={}), trial(1, "running", curves={})]])
def test_a_study_without_complete_trials_says_what_there_is(name: str, trials: list[Trial]) -> None:
    with pytest.raises(PlotError) as caught:
        getattr(study(*trials, metrics=("loss", "acc")).plot, name)()
    assert "'demo'" in str(caught.value)
    if name != "intermediate":
        assert ("1 running, 1 failed" if trials else "none was started") in str(caught.value)


@pytest.mark.parametrize("name", ["slice", "parallel_coordinates", "importances"])
def test_what_is_no_objective_is_named_with_those_that_are(name: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"'acc' is no objective of 'demo', which has \['loss'\]"):
        getattr(study(*losses(1.0, 2.0)).plot, name)("acc")


def test_a_study_of_infinite_values_only_says_so() -> None:
    with pytest.raises(PlotError, match="infinite 'loss'"):
        study(*losses(math.inf, -math.inf)).plot.slice()


def test_a_single_trial_is_drawn_where_one_is_enough() -> None:
    job = study(*losses(1.0, curves={"loss": [(0.0, 1.0)]}))
    for name in ("history", "slice", "parallel_coordinates", "intermediate"):
        getattr(job.plot, name)().to_json()


def test_hostile_names_never_reach_a_figure_as_markup() -> None:
    space = {name: Search.choice([*HOSTILE]) for name in HOSTILE}
    job = study(
        *(trial(n, parameters=dict.fromkeys(HOSTILE, HOSTILE[n]), metrics={HOSTILE[1]: float(n), "b": 1.0},
                curves={HOSTILE[1]: [(0.0, 1.0)]}) for n in range(3)),
        space=space, metrics=(HOSTILE[1], "b"), name=HOSTILE[0],
    )  # fmt: skip
    for name in (*_ALL, "pareto"):
        figure = json.loads(getattr(job.plot, name)().to_json())
        for dimension in figure["data"][0].get("dimensions", ()):
            # Beside parallel axes plotly draws text as it is; a browser's test looks at it.
            dimension.pop("ticktext")
        text = json.dumps({key: figure[key] for key in ("data", "layout")})
        for tag in ("<img", "<script", "</script", "<a ", "<b>", "$x"):
            assert tag not in text, name
        assert "onerror" in text or "document" in text


_values = st.floats(allow_nan=False) | st.just(math.inf)
_states = st.sampled_from(["complete", "failed", "pruned", "running"])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(_states, _values), max_size=12))
def test_any_study_gives_a_figure_or_says_why_not(trials: list[tuple[str, float]]) -> None:
    found = [
        trial(n, state, metrics={} if state == "running" else {"loss": value}, curves={"loss": [(0.0, value)]})
        for n, (state, value) in enumerate(trials)
    ]
    job: OptimizationJob = study(*found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in _ALL:
            with contextlib.suppress(PlotError):
                json.loads(getattr(job.plot, name)().to_json(), parse_constant=pytest.fail)
