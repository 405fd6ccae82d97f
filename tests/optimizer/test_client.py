"""Studies of real local processes, from the call to the last removed file."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import JobExistsError, JobNotFoundError
from kfasync.events import JobStarted, MetricReported, StopRequested
from kfasync.optimizer import (
    AsyncOptimizerClient,
    GridSearch,
    MedianStop,
    Objective,
    RandomSearch,
    Result,
    Search,
    StopRules,
    TrialConfig,
)
from tests.optimizer.functions import (
    fail_above,
    good_or_endless,
    one_good,
    square,
    tell_types,
    two,
    wait_for_ever,
)
from tests.optimizer.studies import X, failed, finished, first, template

pytestmark = pytest.mark.anyio


# -------------------------------------------------------------------- a whole life


async def test_a_study_from_the_call_to_the_last_file(own_home: Path) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        config = TrialConfig(num_trials=6, parallel_trials=2)
        name = await client.optimize(template(square), search_space=X, trial_config=config, name="life")
        job = await finished(client, name)
        assert (job.name, job.status, job.trial_config) == ("life", "Complete", config)
        assert [trial.name for trial in job.trials] == [f"life-{number}" for number in range(6)]
        assert {(trial.status, trial.trainjob and trial.trainjob.status) for trial in job.trials} == {
            ("complete", "Complete")
        }
        best = await client.get_best_results(name)
        assert isinstance(best, Result)
        assert best.metrics[0].latest == pytest.approx(best.parameters["x"] ** 2)
        assert best.metrics[0].min == min(trial.metrics[0].min for trial in job.trials)
        assert await client.get_best_results(name, all=True) == [best]
        assert [line async for line in client.get_job_logs(name)] == [f"loss={best.parameters['x'] ** 2}"]
        named = [line async for line in client.get_job_logs(name, "life-3", follow=True)]
        assert named == [f"loss={job.trials[3].parameters['x'] ** 2}"]
        reasons = [event.reason for event in await client.get_job_events(name)]
        assert (reasons[0], reasons[-1]) == ("Created", "Complete")
        assert (reasons.count("TrialStarted"), reasons.count("TrialComplete")) == (6, 6)
        assert [each.name for each in await client.list_jobs()] == ["life"]
        assert {each.name for each in await client._trials.list_jobs()} == {trial.name for trial in job.trials}
        await client.delete_job(name)
        assert await client.list_jobs() == []
        assert await client._trials.list_jobs() == []
        assert list((own_home / "jobs").iterdir()) == []
        with pytest.raises(JobNotFoundError):
            await client.get_job(name)


async def test_who_is_no_study_is_not_found(optimizer: AsyncOptimizerClient) -> None:
    await optimizer._trials.train(train_func=square, func_args={"x": 1.0}, name="plain")
    for name in ("plain", "nobody"):
        for call in (optimizer.get_job, optimizer.get_best_results, optimizer.cancel, optimizer.delete_job):
            with pytest.raises(JobNotFoundError):
                await call(name)
    name = await optimizer.optimize(template(square), search_space=X, trial_config=TrialConfig(num_trials=1))
    with pytest.raises(JobNotFoundError, match="plain"):
        [line async for line in optimizer.get_job_logs(name, "plain")]


# -------------------------------------------------------------------- values


async def test_the_function_gets_typed_values_and_conditional_ones_only_where_they_exist(
    optimizer: AsyncOptimizerClient,
) -> None:
    space = {
        "lr": Search.choice([1, 2]),
        "size": Search.choice([16, 32]),
        "kind": Search.choice(["sgd", "adam"]),
        "momentum": Search.quniform(0.5, 1.0, 0.5).when("kind", "sgd"),
    }
    name = await optimizer.optimize(
        template(tell_types), search_space=space, algorithm=GridSearch(), trial_config=TrialConfig(12, 3)
    )
    job = await finished(optimizer, name)
    assert len(job.trials) == 2 * 2 * (2 + 1)
    assert {type(trial.parameters["size"]) for trial in job.trials} == {int}
    best = await optimizer.get_best_results(name)
    assert isinstance(best, Result)
    assert best.parameters["size"] == 16


async def test_the_points_of_a_user_come_first(optimizer: AsyncOptimizerClient) -> None:
    points = [{"x": 0.25}, {"x": 0.75}]
    name = await optimizer.optimize(
        template(square), search_space=X, enqueue=points, trial_config=TrialConfig(4, 2), algorithm=RandomSearch(1)
    )
    job = await finished(optimizer, name)
    assert [trial.parameters for trial in job.trials][:2] == points
    assert len({trial.parameters["x"] for trial in job.trials}) == 4


async def test_a_function_of_a_module_beside_the_script_works_after_it_is_gone_from_the_path(
    optimizer: AsyncOptimizerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_helper.py").write_text("FACTOR = 3\n")
    (tmp_path / "beside.py").write_text("import beside_helper\ndef go(x): print(f'loss={x * beside_helper.FACTOR}')\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        module = importlib.import_module("beside")
        name = await optimizer.optimize(template(module.go), search_space=X, trial_config=TrialConfig(1))
    job = await finished(optimizer, name)
    assert job.trials[0].metrics[0].latest == pytest.approx(3 * job.trials[0].parameters["x"])


async def test_several_objectives_give_a_pareto_front(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(two),
        search_space={"x": Search.choice([1, 2, 3])},
        objectives=[Objective("loss"), Objective("accuracy", "maximize")],
        algorithm=GridSearch(),
        trial_config=TrialConfig(3, 3),
    )
    await finished(optimizer, name)
    front = await optimizer.get_best_results(name, all=True)
    assert isinstance(front, list)
    assert sorted(each.parameters["x"] for each in front) == [1, 2, 3]


# -------------------------------------------------------------------- failures


async def test_failed_trials_are_counted_and_the_study_goes_on(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(fail_above),
        search_space={"x": Search.choice([0.1, 0.6, 0.9])},
        algorithm=GridSearch(),
        trial_config=TrialConfig(3, max_failed_trials=2),
    )
    job = await finished(optimizer, name)
    assert [(trial.status, trial.reason) for trial in job.trials] == [
        ("complete", ""),
        ("failed", "Error"),
        ("failed", "Error"),
    ]


async def test_too_many_failures_end_the_study_and_what_still_runs(optimizer: AsyncOptimizerClient) -> None:
    def fail_or_wait(x: int) -> None:
        import signal

        if x:
            raise ValueError("diverged")
        signal.pause()

    name = await optimizer.optimize(
        template(fail_or_wait),
        search_space={"x": Search.choice([0, 1, 2])},
        algorithm=GridSearch(),
        trial_config=TrialConfig(3, 2, max_failed_trials=1),
    )
    error = await failed(optimizer, name)
    assert error.reason == "MaxFailedTrials"
    assert "ValueError: diverged" in str(error)
    job = await optimizer.get_job(name)
    assert [trial.status for trial in job.trials] == ["pruned", "failed", "failed"]


async def test_a_study_whose_trials_never_report_its_objective_fails_and_says_so(
    optimizer: AsyncOptimizerClient,
) -> None:
    name = await optimizer.optimize(
        template(square), search_space=X, objectives=[Objective("acc")], trial_config=TrialConfig(2, 2)
    )
    error = await failed(optimizer, name)
    assert error.reason == "NoMetric"
    assert "'acc'" in str(error)
    job = await optimizer.get_job(name)
    assert [(trial.status, trial.reason) for trial in job.trials] == [("failed", "NoMetric")] * 2
    assert await optimizer.get_best_results(name) is None


async def test_a_name_that_somebody_elses_job_has_fails_that_trial_and_harms_nobody(
    optimizer: AsyncOptimizerClient,
) -> None:
    await optimizer._trials.train(train_func=square, func_args={"x": 9.0}, name="taken-0")
    name = await optimizer.optimize(template(square), search_space=X, trial_config=TrialConfig(2), name="taken")
    job = await finished(optimizer, name)
    assert [(trial.status, trial.reason) for trial in job.trials] == [("failed", "NotCreated"), ("complete", "")]
    await optimizer.delete_job(name)
    assert (await optimizer._trials.get_job("taken-0")).name == "taken-0"


async def test_a_trial_whose_job_somebody_deletes_has_failed(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(wait_for_ever), search_space=X, trial_config=TrialConfig(1), name="deleted"
    )
    await first(optimizer, name, JobStarted, suffix="-")
    await optimizer._trials.delete_job("deleted-0")
    error = await failed(optimizer, name)
    assert error.reason == "NoCompleteTrial"
    # A delete cancels first; whichever the driver saw.
    assert (await optimizer.get_job(name)).trials[0].reason in ("Cancelled", "Deleted")


# -------------------------------------------------------------------- the end of a study


async def test_a_goal_ends_the_study_and_its_running_trials(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(one_good),
        search_space={"x": Search.choice([1, 2, 0, 4])},
        enqueue=[{"x": 1}, {"x": 2}, {"x": 0}],
        stop=StopRules(goal=0.5),
        trial_config=TrialConfig(20, 3),
    )
    job = await finished(optimizer, name)
    assert [trial.status for trial in job.trials] == ["pruned", "pruned", "complete"]
    assert job.reason == "Goal"


async def test_no_improvement_ends_the_study(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(square),
        search_space=X,
        enqueue=[{"x": 0.0}],
        stop=StopRules(no_improvement=3),
        trial_config=TrialConfig(50),
    )
    job = await finished(optimizer, name)
    assert (len(job.trials), job.reason) == (4, "NoImprovement")


async def test_a_timeout_ends_the_study_well_if_anything_was_found(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(one_good),
        search_space={"x": Search.choice([0, 1])},
        enqueue=[{"x": 0}, {"x": 1}],
        stop=StopRules(timeout=3),
        trial_config=TrialConfig(2),
    )
    before = time.monotonic()
    job = await finished(optimizer, name)
    assert time.monotonic() - before < 8
    assert [trial.status for trial in job.trials] == ["complete", "pruned"]
    assert job.reason == "Timeout"


async def test_a_grid_that_is_used_up_ends_the_study_well(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(square),
        search_space={"x": Search.choice([1, 2, 3])},
        algorithm=GridSearch(),
        trial_config=TrialConfig(10, 2),
    )
    job = await finished(optimizer, name)
    assert [trial.parameters["x"] for trial in job.trials] == [1, 2, 3]
    assert (job.status, job.reason) == ("Complete", "Exhausted")


# -------------------------------------------------------------------- early stopping


async def test_a_bad_trial_is_asked_to_stop_within_a_second_and_counts_as_pruned(
    optimizer: AsyncOptimizerClient,
) -> None:
    good = [{"x": x} for x in (0.04, 0.03, 0.02, 0.01)]
    name = await optimizer.optimize(
        template(good_or_endless),
        search_space=X,
        enqueue=[*good, {"x": 0.9}, {"x": 0.001}],
        early_stopping=MedianStop(n_startup_trials=2, n_warmup_steps=0),
        trial_config=TrialConfig(6, max_failed_trials=0),
        name="early",
    )
    job = await finished(optimizer, name)
    assert [trial.status for trial in job.trials] == [*["complete"] * 4, "pruned", "complete"]
    assert job.trials[4].reason == "Pruned"
    engine = optimizer._trials.engine
    told = await engine.history((await engine.job("early-4")).uid)
    report = next(event.time for event in told if isinstance(event, MetricReported))
    asked = next(event.time for event in told if isinstance(event, StopRequested))
    assert asked - report < 1


# -------------------------------------------------------------------- names


async def test_the_same_name_with_the_same_study_is_that_study(optimizer: AsyncOptimizerClient) -> None:
    config = TrialConfig(2)
    name = await optimizer.optimize(template(square), search_space=X, trial_config=config, name="same")
    await finished(optimizer, name)
    assert await optimizer.optimize(template(square), search_space=X, trial_config=config, name="same") == name
    assert len((await finished(optimizer, name)).trials) == 2
    for other in ({"search_space": {"x": Search.uniform(0, 2)}}, {"stop": StopRules(goal=0)},
                  {"trial_config": TrialConfig(3)}, {"trial_template": template(fail_above)}):  # fmt: skip
        call: dict[str, Any] = {
            "trial_template": template(square), "search_space": X, "trial_config": config, "name": "same",
        } | other  # fmt: skip
        with pytest.raises(JobExistsError):
            await optimizer.optimize(**call)


_SCRIPT = """
from kfasync.optimizer import OptimizerClient, Search, TrainJobTemplate, TrialConfig
from kfasync.trainer import CustomTrainer
from tests.optimizer.functions import (
    count_starts,
    fail_above,
    good_or_endless,
    one_good,
    square,
    tell_types,
    two,
    wait_for_ever,
)

SCALE = {"a", "b", "c"}

def train(x, y, z, w):
    print(f"loss={x + len(SCALE)}")

if __name__ == "__main__":
    print(OptimizerClient().optimize(
        TrainJobTemplate(trainer=CustomTrainer(func=train, func_args={"y": 1, "z": 2, "w": {"p", "q"}})),
        search_space={"x": Search.uniform(0, 1)}, trial_config=TrialConfig(2), name="script"))
"""


async def test_a_script_that_runs_again_goes_on_with_its_study(
    optimizer: AsyncOptimizerClient, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    monkeypatch.setenv("KFASYNC_BACKEND", "local")
    for _ in range(2):
        done = await asyncio.to_thread(subprocess.run, [sys.executable, script], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("script\n", "")
    job = await finished(optimizer, "script")
    assert [trial.status for trial in job.trials] == ["complete"] * 2
