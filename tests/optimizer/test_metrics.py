"""What of a trial's output counts, on real processes; `Objective` tells the rules to users."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kfasync.optimizer import AsyncOptimizerClient, MedianStop, Objective, Search, Trial, TrialConfig
from tests.optimizer.functions import say, tear, tell, tell_by_rank
from tests.optimizer.studies import X, failed, finished, template

pytestmark = pytest.mark.anyio

ONE = TrialConfig(1)
NAN, INF = math.nan, math.inf


async def only_trial(optimizer: AsyncOptimizerClient, func: Any, objective: Objective, **trainer: Any) -> Trial:
    """The one trial of a study that ends well."""
    name = await optimizer.optimize(template(func, **trainer), search_space=X, objectives=[objective], trial_config=ONE)
    (trial,) = (await finished(optimizer, name)).trials
    return trial


def values(trial: Trial, metric: str) -> tuple[float, float, float]:
    """Smallest, largest and latest."""
    (found,) = [each for each in trial.metrics if each.name == metric]
    return float(found.min), float(found.max), float(found.latest)


@pytest.mark.parametrize(
    ("text", "metric", "expected"),
    [
        pytest.param("loss=0.5", "loss", (0.5, 0.5, 0.5), id="the last line has no end"),
        pytest.param("loss=3\nloss=1\nloss=2\n", "loss", (1, 3, 2), id="best and latest are told apart"),
        pytest.param("epoch 3 [##  ] loss = 2.5e-1, lr=1\r", "loss", (0.25,) * 3, id="within other text"),
        pytest.param("no.such_loss=7 val-loss|a=1", "val-loss|a", (1, 1, 1), id="dashes and bars are of the name"),
        pytest.param("val/loss=0.5 größe.loss=0.25", "loss", (0.25, 0.5, 0.25), id="other characters end a name"),
        pytest.param("loss=nan\nloss=2\nloss=nan\n", "loss", (2, 2, NAN), id="nan is passed over"),
        pytest.param("loss=inf\n", "loss", (INF, INF, INF), id="inf is a number"),
        pytest.param("a=1 a=2\nx" + 70_000 * "y" + " loss=1", "loss", (1, 1, 1), id="at the end of a long line"),
    ],
)
async def test_a_printed_value_counts(
    optimizer: AsyncOptimizerClient, text: str, metric: str, expected: tuple[float, float, float]
) -> None:
    trial = await only_trial(optimizer, say, Objective(metric), func_args={"text": text})
    assert trial.status == "complete"
    assert values(trial, metric) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("metric", ["val/loss", "a.b", "größe", "x=1", "with space", "🙂", '"', "k" * 300])
async def test_a_reported_metric_may_have_any_name(optimizer: AsyncOptimizerClient, metric: str) -> None:
    reports = [{metric: 2.0}, {metric: 1.0}, {metric: INF}]
    trial = await only_trial(optimizer, tell, Objective(metric), func_args={"reports": reports})
    assert values(trial, metric) == (1, INF, INF)


async def test_maximizing_takes_the_largest_value_and_inf_is_one(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(tell, func_args={"reports": [{"acc": INF}, {"acc": 0.5}]}),
        search_space=X,
        objectives=[Objective("acc", "maximize")],
        trial_config=ONE,
    )
    job = await finished(optimizer, name)
    assert values(job.trials[0], "acc") == (0.5, INF, 0.5)


@pytest.mark.parametrize(
    ("func", "func_args", "told"),
    [
        pytest.param(say, {"text": "nothing\n"}, "it never reported loss", id="never"),
        pytest.param(say, {"text": "accuracy=1\n"}, "it never reported loss", id="another one"),
        pytest.param(say, {"text": "loss=low\nloss=\n"}, "it never reported loss", id="no number"),
        pytest.param(tell, {"reports": [{"loss": NAN}] * 2}, "all that it reported of loss is nan", id="nan"),
        pytest.param(tear, {}, "it never reported loss", id="the last value was lost"),
    ],
)
async def test_a_trial_without_a_value_has_failed_and_the_study_says_so(
    optimizer: AsyncOptimizerClient, func: Any, func_args: dict[str, Any], told: str
) -> None:
    name = await optimizer.optimize(template(func, func_args=func_args), search_space=X, trial_config=ONE)
    error = await failed(optimizer, name)
    assert (error.reason, "'loss'" in str(error)) == ("NoMetric", True)
    (trial,) = (await optimizer.get_job(name)).trials
    assert (trial.status, trial.reason) == ("failed", "NoMetric")
    assert f"trial 0: {told}" in [event.message for event in await optimizer.get_job_events(name)]


async def test_a_study_tells_that_its_objectives_name_can_not_be_printed(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(say, func_args={"text": "val/loss=1\n"}),
        search_space=X,
        objectives=[Objective("val/loss")],
        trial_config=ONE,
    )
    error = await failed(optimizer, name)
    assert "'val/loss': kfasync.report it; a printed name has only" in str(error)


@pytest.mark.parametrize(
    ("printed", "rank", "expected"),
    [(True, 0, (10, 10, 10)), (False, 0, (10, 10, 10)), (False, 1, (9, 9, 9))],
)
async def test_one_ranks_value_counts_and_it_is_that_of_rank_0_unless_asked(
    optimizer: AsyncOptimizerClient, printed: bool, rank: int, expected: tuple[float, float, float]
) -> None:
    trial = await only_trial(optimizer, tell_by_rank, Objective(rank=rank), func_args={"printed": printed}, num_nodes=2)
    assert values(trial, "loss") == expected


async def test_all_ranks_values_count_when_asked_for(optimizer: AsyncOptimizerClient) -> None:
    trial = await only_trial(optimizer, tell_by_rank, Objective(rank=None), func_args={"printed": False}, num_nodes=3)
    assert values(trial, "loss")[:2] == (8, 10)


async def test_what_other_ranks_print_never_counts(optimizer: AsyncOptimizerClient) -> None:
    name = await optimizer.optimize(
        template(tell_by_rank, func_args={"printed": True}, num_nodes=2),
        search_space=X,
        objectives=[Objective(rank=1)],
        trial_config=ONE,
    )
    assert (await failed(optimizer, name)).reason == "NoMetric"


async def test_a_trial_tells_that_another_rank_than_its_objectives_has_reported(
    optimizer: AsyncOptimizerClient,
) -> None:
    def last_stage(x: float) -> None:
        import os

        import kfasync

        if os.environ["RANK"] == "1":
            kfasync.report(loss=x)

    name = await optimizer.optimize(template(last_stage, num_nodes=2), search_space=X, trial_config=ONE)
    assert (await failed(optimizer, name)).reason == "NoMetric"
    (told,) = [each.message for each in await optimizer.get_job_events(name) if each.reason == "TrialFailed"]
    assert "its rank 0 never reported loss, another one did" in told


async def test_reports_without_a_step_count_as_steps_and_other_ranks_do_not_hasten_them(
    optimizer: AsyncOptimizerClient,
) -> None:
    def descend(x: float) -> None:
        import os
        import signal

        import kfasync

        # Rank 1 tells nonsense, ten times as often.
        for step in range(30 if os.environ["RANK"] == "1" else 3):
            kfasync.report(loss=-1.0 if os.environ["RANK"] == "1" else x - step)
        if x > 0.5 and os.environ["RANK"] == "0":
            signal.pause()

    name = await optimizer.optimize(
        template(descend, num_nodes=2),
        search_space={"x": Search.uniform(0, 1)},
        enqueue=[{"x": 0.1}, {"x": 0.2}, {"x": 0.9}],
        early_stopping=MedianStop(n_startup_trials=2, n_warmup_steps=2),
        trial_config=TrialConfig(3),
    )
    job = await finished(optimizer, name)
    # Only the third step, which is after the warm-up, shows that it is worse.
    assert [trial.status for trial in job.trials] == ["complete", "complete", "pruned"]
