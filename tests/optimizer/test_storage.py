"""Optuna, its plots and optuna-dashboard over the studies of a home, which none of them disturbs."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kfasync.errors import JobNotFoundError, JournalError, UnsupportedError
from kfasync.events import MetricReported, TrialEnded, TrialStarted
from kfasync.optimizer import (
    AsyncOptimizerClient,
    Objective,
    RandomSearch,
    Search,
    TrialConfig,
    export_study,
    optuna_storage,
)
from kfasync.state._store import Store
from tests.optimizer.functions import good_or_endless, square, two_kinds
from tests.optimizer.records import Record
from tests.optimizer.studies import X, finished, first, template

pytestmark = pytest.mark.anyio

_RUNNING, _COMPLETE, _FAIL, _PRUNED = TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED


def load(home: Path, name: str = "study") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=optuna_storage(home))


# -------------------------------------------------------------------- what a reader sees


_EVERYTHING: dict[str, Any] = {
    "lr": (Search.loguniform(1e-5, 1e-1), 1e-3),
    "momentum": (Search.uniform(0, 1), 0.25),
    "layers": (Search.int(1, 9, step=2), 5),
    "width": (Search.logint(1, 1024), 64),
    "dropout": (Search.quniform(0.1, 0.7, 0.1), 0.3),
    "noise": (Search.normal(10, 2), 11.5),
    "scale": (Search.lognormal(0, 1), 2.5),
    "size": (Search.choice([16, 32]), 32),
    "kind": (Search.choice(["adam", "sgd"]), "sgd"),
    "flag": (Search.choice([False, True]), True),
    "maybe": (Search.choice([None, 0.5, math.inf]), None),
}


def test_parameters_have_their_natural_values_and_types(tmp_path: Path) -> None:
    record = Record(tmp_path, {name: spec for name, (spec, _) in _EVERYTHING.items()})
    values = {name: value for name, (_, value) in _EVERYTHING.items()}
    record.start(0, **values)
    (trial,) = load(tmp_path).trials
    assert trial.params == values
    assert {name: type(value) for name, value in trial.params.items()} == {k: type(v) for k, v in values.items()}
    trial._validate()
    floats = {"lr": (1e-5, 1e-1, True, None), "momentum": (0, 1, False, None), "dropout": (0.1, 0.7, False, 0.1)}
    for name, (low, high, log, step) in floats.items():
        assert trial.distributions[name] == optuna.distributions.FloatDistribution(low, high, log=log, step=step)
    assert trial.distributions["layers"] == optuna.distributions.IntDistribution(1, 9, step=2)
    assert trial.distributions["width"] == optuna.distributions.IntDistribution(1, 1024, log=True)
    assert trial.distributions["maybe"] == optuna.distributions.CategoricalDistribution([None, 0.5, math.inf])
    normal, lognormal = trial.distributions["noise"], trial.distributions["scale"]
    assert isinstance(normal, optuna.distributions.FloatDistribution)
    assert isinstance(lognormal, optuna.distributions.FloatDistribution)
    assert (normal.log, lognormal.log) == (False, True)
    assert (normal.low + normal.high) / 2 == pytest.approx(10)
    assert math.log(lognormal.low) == pytest.approx(-math.log(lognormal.high))


def test_a_normal_value_far_out_belongs_to_the_space_of_all_trials(tmp_path: Path) -> None:
    record = Record(tmp_path, {"noise": Search.normal(0, 1)})
    study = load(tmp_path)
    for number, value in enumerate([0.5, 40.0, -0.5]):
        record.start(number, noise=value)
        trials = study.trials
    for trial in trials:
        trial._validate()
    assert {trial.distributions["noise"] for trial in trials} == {trials[0].distributions["noise"]}


def test_a_conditional_parameter_is_there_where_it_exists(tmp_path: Path) -> None:
    kinds = {"kind": Search.choice(["a", "b"]), "x": Search.uniform(0, 1).when("kind", "b")}
    record = Record(tmp_path, kinds)
    record.start(0, kind="a")
    record.start(1, kind="b", x=0.5)
    assert [trial.params for trial in load(tmp_path).trials] == [{"kind": "a"}, {"kind": "b", "x": 0.5}]


def test_states_values_times_and_reasons_are_the_journals(tmp_path: Path) -> None:
    record = Record(tmp_path, X, objectives=[Objective("acc", "maximize")])
    for number in range(5):
        record.start(number, x=number / 10)
    record.report("study-1", 0.5, math.nan, 0.25, metric="acc")
    record.end(0, acc=0.75, other=3.0)
    record.end(1, "pruned", "Pruned", acc=0.5)
    record.end(2, "failed", "OOMKilled")
    record.end(3, "failed", "NoMetric", other=1.0)
    study = load(tmp_path)
    assert [trial.state for trial in study.trials] == [_COMPLETE, _PRUNED, _FAIL, _FAIL, _RUNNING]
    # Optuna's rule: a pruned trial's value is the last that it reported.
    assert [trial.values for trial in study.trials] == [[0.75], [0.25], None, None, None]
    reports = study.trials[1].intermediate_values
    assert (reports[0], math.isnan(reports[1]), reports[2]) == (0.5, True, 0.25)
    assert study.trials[0].user_attrs == {"job": "study-0", "other": 3.0}
    assert study.trials[2].user_attrs == {"job": "study-2", "reason": "OOMKilled"}
    assert study.trials[0].datetime_start == datetime.fromtimestamp(100.0)
    assert study.trials[0].datetime_complete == datetime.fromtimestamp(200.0)
    assert study.trials[4].datetime_complete is None
    assert (study.best_value, study.best_params) == (0.75, {"x": 0.0})
    assert (study.direction, study.metric_names) == (optuna.study.StudyDirection.MAXIMIZE, ["acc"])
    assert study.user_attrs["status"] == "Running"
    for trial in study.trials:
        trial._validate()


def test_several_objectives_make_a_pareto_front(tmp_path: Path) -> None:
    record = Record(tmp_path, X, objectives=[Objective("loss"), Objective("acc", "maximize")])
    for number, (loss, acc) in enumerate([(1.0, 0.5), (2.0, 0.9), (3.0, 0.4)]):
        record.start(number, x=0.5)
        record.end(number, loss=loss, acc=acc)
    study = load(tmp_path)
    assert [trial.values for trial in study.trials] == [[1.0, 0.5], [2.0, 0.9], [3.0, 0.4]]
    assert [trial.number for trial in study.best_trials] == [0, 1]
    assert optuna.visualization.plot_pareto_front(study).data


def test_of_a_trial_that_was_tried_again_the_last_try_counts(tmp_path: Path) -> None:
    record = Record(tmp_path, X)
    record.start(0, x=0.5)
    record.report("study-0", 9.0, 8.0)
    record.start(0, retry=1, x=0.5)
    record.report("study-0", 7.0, first=2)  # Late news of the first try.
    record.report("study-0-r1", 1.0)
    (trial,) = load(tmp_path).trials
    assert trial.intermediate_values == {0: 1.0}
    assert trial.user_attrs == {"job": "study-0-r1", "retries": 1}
    assert trial.datetime_start == datetime.fromtimestamp(100.0)


def test_what_is_told_of_a_trial_that_is_no_job_is_seen(tmp_path: Path) -> None:
    record = Record(tmp_path, X)
    record.start(0, x=0.5)
    for position, (step, value) in enumerate([(0, 3.0), (1.5, 2.0), (-1, 1.0)]):
        record.reported(0, step, value, position)
    assert load(tmp_path).trials[0].intermediate_values == {0: 3.0, 1: 2.0}


def test_somebody_elses_job_of_a_trials_name_is_not_heard(tmp_path: Path) -> None:
    record = Record(tmp_path, X)
    record.stranger("study-0")
    record.tell(TrialStarted, 0, trial="study-0", parameters={"x": 0.5}, parent="elder")
    record.report("study-0", 5.0)
    (trial,) = load(tmp_path).trials
    assert trial.user_attrs == {"job": "study-0", "parent": "elder"}
    assert (trial.params, trial.intermediate_values) == ({"x": 0.5}, {})


# -------------------------------------------------------------------- following


def test_a_reader_sees_what_happens_and_keeps_what_it_knows(tmp_path: Path) -> None:
    record = Record(tmp_path, X)
    storage = optuna_storage(tmp_path)
    study = optuna.load_study(study_name="study", storage=storage)
    record.start(0, x=0.5)
    record.start(1, x=0.6)
    before = study.get_trials(deepcopy=False)
    record.report("study-1", 0.25)
    after = study.get_trials(deepcopy=False)
    assert after[0] is before[0]
    assert (before[1].intermediate_values, after[1].intermediate_values) == ({}, {0: 0.25})
    record.end(1, loss=0.25)
    assert study.best_trial.number == 1
    assert before[1].state is _RUNNING
    assert storage.get_trial(after[1]._trial_id).state is _COMPLETE


def test_every_reader_knows_a_study_and_a_trial_by_the_same_numbers(tmp_path: Path) -> None:
    record = Record(tmp_path, X)
    record.start(0, x=0.5)
    early = optuna_storage(tmp_path)
    early_study = early.get_study_id_from_name("study")
    other = Record(tmp_path, X, name="other")
    record.start(1, x=0.5)
    other.start(0, x=0.5)
    late = optuna_storage(tmp_path)
    assert [study.study_name for study in late.get_all_studies()] == ["study", "other"]
    assert late.get_study_id_from_name("study") == early_study
    ids = [[trial._trial_id for trial in view.get_all_trials(early_study)] for view in (early, late)]
    assert ids[0] == ids[1]
    assert not {trial._trial_id for trial in load(tmp_path, "other").trials} & set(ids[0])


def test_a_deleted_study_is_gone_and_its_name_free(tmp_path: Path) -> None:
    storage = optuna_storage(tmp_path)
    record = Record(tmp_path, X)
    old = storage.get_study_id_from_name("study")
    record.delete()
    assert storage.get_all_studies() == []
    with pytest.raises(KeyError):
        storage.get_all_trials(old)
    with pytest.raises(KeyError, match="study"):
        load(tmp_path)


def test_a_home_without_a_journal_has_no_studies_yet(tmp_path: Path) -> None:
    home = tmp_path / "later"
    storage = optuna_storage(home)
    assert storage.get_all_studies() == []
    assert not home.exists()
    Record(home, X).start(0, x=0.5)
    assert len(storage.get_all_trials(storage.get_study_id_from_name("study"))) == 1
    shutil.rmtree(home)
    assert storage.get_all_studies() == []


def test_a_home_that_was_made_again_is_read_from_its_beginning(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Record(home, X).start(0, x=0.5)
    storage = optuna_storage(home)
    assert len(storage.get_all_studies()) == 1
    shutil.rmtree(home)
    again = Record(home, X, name="again")
    for number in range(5):
        again.start(number, x=0.5)
    (study,) = storage.get_all_studies()
    assert (study.study_name, len(storage.get_all_trials(study._study_id))) == ("again", 5)


def test_a_journal_may_be_read_while_it_is_being_made(tmp_path: Path) -> None:
    for number in range(50):
        home = tmp_path / str(number)
        made = threading.Thread(target=Record, args=(home, X))
        made.start()
        storage = optuna_storage(home)
        while made.is_alive():
            storage.get_all_studies()
        made.join()
        assert [study.study_name for study in storage.get_all_studies()] == ["study"]


def test_a_journal_that_is_none_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite3").write_bytes(b"no journal" * 100)
    (tmp_path / "falsified").touch()
    with pytest.raises(JournalError):
        optuna_storage(tmp_path).get_all_studies()


def test_a_reader_leaves_no_descriptor_and_no_file(tmp_path: Path) -> None:
    Record(tmp_path, X).start(0, x=0.5)
    storage = optuna_storage(tmp_path)
    storage.get_all_studies()
    there, held = sorted(os.listdir(tmp_path)), os.listdir("/proc/self/fd")
    for _ in range(20):
        storage.get_all_studies()
    assert (sorted(os.listdir(tmp_path)), len(os.listdir("/proc/self/fd"))) == (there, len(held))


# -------------------------------------------------------------------- not writing


def test_nothing_is_written_through_optuna(tmp_path: Path) -> None:
    record = Record(tmp_path, X)
    record.start(0, x=0.5)
    storage = optuna_storage(tmp_path)
    study = optuna.load_study(study_name="study", storage=storage)
    (trial,) = study.trials
    uniform = optuna.distributions.FloatDistribution(0, 1)
    calls: list[Any] = [
        lambda: study.ask(),
        lambda: study.tell(0, 1.0),
        lambda: study.enqueue_trial({"x": 0.5}),
        lambda: study.add_trial(trial),
        lambda: study.set_user_attr("note", "mine"),
        lambda: optuna.create_study(storage=storage, study_name="new"),
        lambda: optuna.delete_study(study_name="study", storage=storage),
        lambda: storage.set_study_system_attr(study._study_id, "a", 1),
        lambda: storage.set_trial_param(trial._trial_id, "x", 0.5, uniform),
        lambda: storage.set_trial_intermediate_value(trial._trial_id, 0, 0.5),
        lambda: storage.set_trial_user_attr(trial._trial_id, "a", 1),
        lambda: storage.set_trial_system_attr(trial._trial_id, "a", 1),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match="export_study"):
            call()
    assert study.trials == [trial]
    assert [each.study_name for each in storage.get_all_studies()] == ["study"]


def test_a_writer_does_not_wait_for_a_reader_in_the_middle_of_a_look(tmp_path: Path) -> None:
    record = Record(tmp_path, X)
    reader = Store(tmp_path / "journal.sqlite3", read_only=True)
    try:
        reader._connection.execute("BEGIN")
        head = reader.head()
        record.start(0, x=0.5)
        assert reader.head() == head
    finally:
        reader.close()
    assert len(load(tmp_path).trials) == 1


# -------------------------------------------------------------------- copies


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_a_copy_is_a_study_of_optunas_own_that_goes_on_there(tmp_path: Path, kind: str) -> None:
    record = Record(tmp_path, {name: spec for name, (spec, _) in _EVERYTHING.items()})
    values = {name: value for name, (_, value) in _EVERYTHING.items()}
    for number, loss in enumerate([3.0, 1.0, 2.0]):
        record.start(number, **values | {"momentum": number / 4})
        record.report(f"study-{number}", loss + 1, loss)
        record.end(number, loss=loss)
    storage = f"sqlite:///{tmp_path}/copy.db" if kind == "sqlite" else optuna.storages.InMemoryStorage()
    export_study("study", storage, home=tmp_path, to="copy")
    copy, study = optuna.load_study(study_name="copy", storage=storage), load(tmp_path)
    shown = [[(t.params, t.values, t.intermediate_values, t.user_attrs) for t in each.trials] for each in (copy, study)]
    assert shown[0] == shown[1]
    assert (copy.best_params, copy.metric_names) == (study.best_params, ["loss"])
    copy.tell(copy.ask(), 0.5)
    assert (len(copy.trials), len(study.trials)) == (4, 3)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        export_study("study", storage, home=tmp_path, to="copy")
    del copy, storage
    gc.collect()  # An engine of SQLAlchemy's closes its connections when it is collected.


def test_a_copy_of_what_is_no_study_is_refused(tmp_path: Path) -> None:
    Record(tmp_path, X).stranger("plain")
    with pytest.raises(JobNotFoundError, match="plain"):
        export_study("plain", optuna.storages.InMemoryStorage(), home=tmp_path)


# -------------------------------------------------------------------- Optuna's tools over real studies


@pytest.mark.slow
async def test_optunas_tools_work_on_a_study_of_real_processes(optimizer: AsyncOptimizerClient, home: Path) -> None:
    space = {**X, "kind": Search.choice(["a", "b"])}
    name = await optimizer.optimize(
        template(two_kinds), search_space=space, trial_config=TrialConfig(12, 2), algorithm=RandomSearch(0)
    )
    job = await finished(optimizer, name)
    study = await asyncio.to_thread(load, home, name)
    assert [trial.params for trial in study.trials] == [trial.parameters for trial in job.trials]
    assert [trial.value for trial in study.trials] == [trial.metrics[0].min for trial in job.trials]
    assert (study.user_attrs["status"], study.best_trial.user_attrs["job"]) == (
        "Complete",
        min(job.trials, key=lambda trial: trial.metrics[0].min).name,
    )
    importances = optuna.importance.get_param_importances(study)
    assert importances.keys() == space.keys()
    assert max(importances, key=lambda each: importances[each]) == "x"
    plots = optuna.visualization
    for plot in (
        plots.plot_optimization_history,
        plots.plot_parallel_coordinate,
        plots.plot_slice,
        plots.plot_contour,
        plots.plot_param_importances,
        plots.plot_intermediate_values,
        plots.plot_timeline,
        plots.plot_edf,
    ):
        assert plot(study).data, plot.__name__
    await optimizer.delete_job(name)


@contextmanager
def dashboard() -> Iterator[str]:
    """A real optuna-dashboard in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.optimizer.dashboard"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def get(url: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
async def test_the_dashboard_shows_a_study_while_it_runs_and_can_not_delete_it(
    optimizer: AsyncOptimizerClient, home: Path
) -> None:
    name = await optimizer.optimize(
        template(good_or_endless),
        search_space=X,
        trial_config=TrialConfig(2, 2),
        enqueue=[{"x": 0.25}, {"x": 0.75}],
    )
    try:
        await first(optimizer, name, TrialEnded)
        await first(optimizer, name, MetricReported, 6, suffix="-")
        with dashboard() as url:
            (listed,) = [
                study
                for study in (await asyncio.to_thread(get, f"{url}/api/studies"))["study_summaries"]
                if study["study_name"] == name
            ]
            shown = await asyncio.to_thread(get, f"{url}/api/studies/{listed['study_id']}?after=0")
            trials = shown["trials"]
            assert [trial["state"] for trial in trials] == ["Complete", "Running"]
            assert [trial["params"][0]["param_external_value"] for trial in trials] == ["0.25", "0.75"]
            assert [each["value"] for each in trials[1]["intermediate_values"]] == [0.75] * 3
            assert (trials[0]["values"], shown["objective_names"]) == ([0.25], ["loss"])
            assert {"key": "job", "value": f"{name}-1"} in trials[1]["user_attrs"]
            assert [trial["number"] for trial in shown["best_trials"]] == [0]
            with pytest.raises(urllib.error.HTTPError, match="500"):
                await asyncio.to_thread(get, f"{url}/api/studies/{listed['study_id']}", "DELETE")
            assert (await optimizer.get_job(name)).status == "Running"
    finally:
        await optimizer.delete_job(name)


@pytest.mark.slow
async def test_readers_that_never_pause_do_not_disturb_a_study(optimizer: AsyncOptimizerClient, home: Path) -> None:
    over = threading.Event()
    looks: list[int] = []

    def read() -> int:
        storage, seen = optuna_storage(home), 0
        while not over.is_set():
            for study in storage.get_all_studies():
                seen = max(seen, len(storage.get_all_trials(study._study_id, deepcopy=False)))
            looks.append(seen)
        return seen

    readers = [asyncio.create_task(asyncio.to_thread(read)) for _ in range(2)]
    try:
        name = await optimizer.optimize(template(square), search_space=X, trial_config=TrialConfig(30, 2))
        job = await finished(optimizer, name)
    finally:
        over.set()
        counts = await asyncio.gather(*readers)
    assert [trial.status for trial in job.trials] == ["complete"] * 30
    # Its first driver did all of it.
    assert (await optimizer._studies.engine.job(name)).attempt == 1
    assert max(counts) >= 29
    assert len(set(looks)) > 3
    await optimizer.delete_job(name)
