"""What a user sees of a study in print, in a notebook and in a data frame."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from kfasync.errors import JobNotFoundError
from kfasync.events import MetricReported
from kfasync.optimizer import AsyncOptimizerClient, GridSearch, Result, Search, TrialConfig
from tests.optimizer.functions import good_or_endless, report_thrice
from tests.optimizer.studies import finished, first, template
from tests.optimizer.views import BEGAN, HOSTILE, losses, metric, study, trial

pytestmark = pytest.mark.anyio


# -------------------------------------------------------------------- text


def test_printed_trials_are_one_short_line_each() -> None:
    job = study(*losses(0.1 + 0.2, 2.0), trial(2, "failed", reason="Error", message="a\nlong\nstory"))
    lines = repr(job.trials).splitlines()
    assert lines == [
        "[",
        "  <Trial 0 demo-0: complete, lr=0.1, size=1, kind=sgd, momentum=0.5 -> loss=0.3>,",
        "  <Trial 1 demo-1: complete, lr=0.01, size=2, kind=adam -> loss=2>,",
        "  <Trial 2 demo-2: failed (Error), lr=0.001, size=3, kind=None>,",
        "]",
    ]


def test_a_study_prints_its_status_its_counts_and_its_best_trial() -> None:
    text = repr(study(*losses(3.0, 1.0), trial(2, "running"), status="Failed", reason="Timeout"))
    assert text.startswith("<OptimizationJob demo: Failed (Timeout), trials: 1 running, 2 complete; best: <Trial 1 ")
    assert "trials: none yet" in repr(study())


def test_what_is_printed_obeys_no_terminal_and_stays_on_its_line() -> None:
    found = trial(0, "failed", dict.fromkeys(HOSTILE, HOSTILE[3]), dict.fromkeys(HOSTILE, 1.0), reason=HOSTILE[3])
    for text in (repr(found), repr(study(found))):
        assert text.isprintable()
        text.encode()


def test_the_best_trials_are_those_that_no_other_one_beats() -> None:
    assert [each.number for each in study(*losses(3, 1, 1, 2)).best] == [1]
    points = [(1, 3), (2, 2), (3, 3), (2, 2)]
    trials = [trial(number, metrics={"a": a, "b": b}) for number, (a, b) in enumerate(points)]
    assert [each.number for each in study(*trials, metrics=("a", "b")).best] == [0, 1, 3]
    assert study(trial(0, "pruned", metrics={"loss": 0.0})).best == []


# -------------------------------------------------------------------- notebooks


class _Texts(HTMLParser):
    """The tags of a page, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"scope", "class", "data-value"}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_hostile_names_and_messages_as_text() -> None:
    found = trial(
        0, parameters=dict.fromkeys(HOSTILE, HOSTILE[0]), metrics=dict.fromkeys(HOSTILE, 1.0),
        reason=HOSTILE[1], message=HOSTILE[2],
    )  # fmt: skip
    space = {name: Search.choice([HOSTILE[0]]) for name in HOSTILE}
    job = study(found, space=space, metrics=(HOSTILE[0],), message=HOSTILE[1])
    for shown in (job, job.trials, found, Result(found.parameters, found.metrics)):
        page = _Texts(shown._repr_html_())
        assert page.tags <= {"div", "b", "table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert set(HOSTILE[:3]) <= set(page.texts)


def test_a_notebook_shows_the_values_of_a_trial_and_why_it_failed() -> None:
    page = _Texts(
        trial(3, "failed", {"lr": 0.25}, {"loss": 1 / 3}, reason="OOMKilled", message="no room")._repr_html_()
    )
    assert {"trial 3", "failed", "OOMKilled", "no room", "0.25", "0.333333", "2.5 s"} <= set(page.texts)


def test_a_notebook_shows_a_hundred_trials_and_how_many_more_there_are() -> None:
    page = study(*losses(*range(120))).trials._repr_html_()
    assert page.count("<tr>") == 101
    assert "and 20 more" in page


# -------------------------------------------------------------------- data frames


def test_a_data_frame_has_a_row_a_trial_and_its_values_in_their_types() -> None:
    failed = trial(1, "failed", reason="Error")
    frame = study(trial(0, metrics={"loss": 0.5, "acc": 0.75}), failed, trial(2, "running")).to_dataframe()
    assert list(frame.columns) == [
        "number", "name", "status", "reason", "started", "finished", "duration", "objective.loss",
        "params.lr", "params.size", "params.kind", "params.momentum",
        "metrics.loss.latest", "metrics.loss.min", "metrics.loss.max",
        "metrics.acc.latest", "metrics.acc.min", "metrics.acc.max",
    ]  # fmt: skip
    assert frame["number"].tolist() == [0, 1, 2]
    assert frame["status"].tolist() == ["complete", "failed", "running"]
    assert frame["started"][0] == pd.Timestamp(BEGAN)
    assert frame["duration"][0] == timedelta(seconds=2.5)
    assert frame["finished"].isna().tolist() == [False, False, True]
    assert frame["objective.loss"].tolist()[0] == 0.5
    assert frame["metrics.acc.max"].isna().tolist() == [False, True, True]


def test_a_data_frame_tells_a_choice_of_none_from_nothing_and_keeps_ints() -> None:
    space = {
        "kind": Search.choice([None, 16, 32]),
        "n": Search.int(1, 9).when("kind", 16),
        "size": Search.choice([1, 2]),
    }
    points = ({"kind": None, "size": 1}, {"kind": 16, "n": 3, "size": 2})
    frame = study(*(trial(number, "running", point) for number, point in enumerate(points)), space=space).to_dataframe()
    assert frame["params.kind"].tolist() == [None, 16]
    assert type(frame["params.kind"][1]) is int
    assert frame["params.n"].isna().tolist() == [True, False]
    assert (frame["params.n"][1], str(frame["params.n"].dtype)) == (3, "Int64")
    assert str(frame["params.size"].dtype) == "int64"


def test_a_data_frame_of_a_study_without_trials_has_its_columns() -> None:
    frame = study().to_dataframe()
    assert len(frame) == 0
    assert {"number", "duration", "objective.loss", "params.lr"} <= set(frame.columns)


def test_a_data_frame_of_several_objectives_has_each_one_s_best_value() -> None:
    job = study(trial(0, metrics={"a": 1.0, "b": math.inf}), metrics=("a", "b"))
    job.trials[0].metrics = [metric("a", 3.0, 1.0, 2.0), metric("b", math.inf)]
    frame = job.to_dataframe()
    assert frame[["objective.a", "objective.b", "metrics.a.latest"]].to_numpy().tolist() == [[1.0, math.inf, 2.0]]


@pytest.mark.parametrize("call", ["to_dataframe()", "plot"])
def test_what_needs_a_library_that_is_missing_says_how_to_install_it(call: str) -> None:
    missing = "pandas" if "frame" in call else "plotly"
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom tests.optimizer.views import study; study().{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert "pip install 'kfasync[plot]'" in done.stderr


def test_looking_at_a_study_loads_no_library_that_it_does_not_need() -> None:
    code = (
        "import sys; from tests.optimizer.views import *; job = study(*losses(1, 2)); repr(job); job._repr_html_()\n"
        "assert not {'pandas', 'plotly', 'optuna', 'numpy', 'rich'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------- real studies


async def test_a_study_tells_when_its_trials_ran_and_what_they_reported_on_their_way(
    optimizer: AsyncOptimizerClient,
) -> None:
    name = await optimizer.optimize(
        template(report_thrice), search_space={"x": Search.choice([1, 2])}, algorithm=GridSearch(),
        trial_config=TrialConfig(2),
    )  # fmt: skip
    waited = await finished(optimizer, name)
    job = await optimizer.get_job(name)
    for each in job.trials:
        assert each.started is not None
        assert each.finished is not None
        assert each.started.tzinfo is UTC
        assert 0 < (each.duration or 0) < 60
        x = each.parameters["x"]
        assert each.curves == {"loss": [(0.0, 3.0 * x), (1.0, 2.0 * x), (2.0, 1.0 * x)], "accuracy": [(5.0, 0.5)]}
    assert job.finished is not None
    assert job.finished > job.creation_timestamp
    leaner = [waited, (await optimizer.list_jobs())[-1], await optimizer.get_job(name, curves=False)]
    assert {trial.curves is None for view in leaner for trial in view.trials} == {True}


async def test_what_a_running_trial_has_reported_is_there_while_it_runs(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(good_or_endless), search_space={"x": Search.choice([0.75])}, trial_config=TrialConfig(1), name="live"
    )
    await first(optimizer, name, MetricReported, 3, suffix="-")
    job = await optimizer.get_job(name)
    assert (job.trials[0].status, job.trials[0].duration) == ("running", None)
    assert job.trials[0].curves == {"loss": [(0.0, 0.75), (1.0, 0.75), (2.0, 0.75)]}
    await optimizer.cancel(name)


async def test_a_trial_whose_job_was_deleted_has_no_curves(optimizer: AsyncOptimizerClient, home: Path) -> None:
    name = await optimizer.optimize(
        template(report_thrice), search_space={"x": Search.choice([1])}, trial_config=TrialConfig(1), name="gone"
    )
    await finished(optimizer, name)
    await optimizer._trials.delete_job("gone-0")
    job = await optimizer.get_job(name)
    assert (job.trials[0].curves, job.trials[0].trainjob, job.trials[0].status) == ({}, None, "complete")
    with pytest.raises(JobNotFoundError):
        await optimizer.get_job("nobody")


async def test_what_the_caller_of_an_asked_study_reported_is_there_too(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space={"x": Search.uniform(0, 1)}, name="asked") as asked:
        found = await asked.ask()
        assert found is not None
        for step, value in ((0, 3.0), (1, 2.0), (1, 1.5)):
            await asked.report(found, step, value)
        await asked.tell(found, 1.5)
        job = await optimizer.get_job("asked")
    assert job.trials[0].curves == {"loss": [(0.0, 3.0), (1.0, 1.5)]}
    assert [each.number for each in job.best] == [0]
    assert job.plot.intermediate() is not None
