"""Studies by the trainer's clients, and trials that are no functions, on real local processes."""

from __future__ import annotations

import gc
import threading
import warnings
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import ClientClosedError, InvalidSpecError, JobNotFoundError
from kfasync.optimizer import AsyncOptimizerClient, Objective, OptimizationJob, Result, Search, TrialConfig
from kfasync.trainer import AsyncTrainerClient, CustomTrainer, TrainerClient, TrainJobTemplate
from tests.optimizer.functions import square
from tests.optimizer.studies import X, template

pytestmark = pytest.mark.anyio

_SCRIPT = """
import os
import kfasync
from kfasync.trainer import report_metrics

given = kfasync.get_hyperparameters()
assert {name: type(value) for name, value in given.items()} == {"lr": float, "batch_size": int, "Opt.kind": str}
assert os.environ["KUBEFLOW_TRAINER_OPT_BATCH_SIZE"] == str(given["batch_size"])
for step in range(3):
    report_metrics({"val/loss": given["lr"] + step}, step=step)
"""
_SPACE = {"lr": Search.uniform(0, 1), "batch_size": Search.choice([16, 32]), "Opt.kind": Search.choice(["adam"])}


async def test_a_study_by_the_trainers_client_is_a_study_like_any_other(home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client, AsyncOptimizerClient() as optimizer:
        name = await client.optimize(template(square), search_space=X, trial_config=TrialConfig(3, 2))
        seen: list[str] = []
        study = await client.wait_for_optimization_job_status(
            name, timeout=60, callbacks=[lambda job: seen.append(job.status)]
        )
        assert (study.name, study.status, seen[-1]) == (name, "Complete", "Complete")
        assert await client.get_optimization_job(name) == await optimizer.get_job(name) == study
        best = await client.get_best_results(name)
        assert isinstance(best, Result)
        assert [best] == await optimizer.get_best_results(name, all=True)
        assert [job.name for job in await client.list_optimization_jobs()] == [name]
        assert name not in {job.name for job in await client.list_jobs()}
        # A trial is a job of this client.
        assert (await client.get_job(f"{name}-0")).status == "Complete"
        assert len([line async for line in client.get_job_logs(f"{name}-0")]) == 1
        await client.delete_optimization_job(name)
        with pytest.raises(JobNotFoundError):
            await client.get_optimization_job(name)
        with pytest.raises(JobNotFoundError):
            await client.get_job(f"{name}-0")


def test_the_blocking_client_tells_of_a_study_on_the_callers_thread(home: Path) -> None:
    client = TrainerClient(LocalProcessBackendConfig())
    seen: list[tuple[str, threading.Thread]] = []

    def hear(job: OptimizationJob) -> None:
        seen.append((job.status, threading.current_thread()))

    name = client.optimize(template(square), search_space=X, trial_config=TrialConfig(2, 1))
    study = client.wait_for_optimization_job_status(name, callbacks=[hear])
    assert (study, seen[-1]) == (client.get_optimization_job(name), ("Complete", threading.current_thread()))
    assert isinstance(client.get_best_results(name), Result)
    assert [job.name for job in client.list_optimization_jobs()] == [name]
    client.delete_optimization_job(name)
    assert client.list_optimization_jobs() == []


async def test_closing_the_trainers_client_closes_what_its_studies_need(home: Path) -> None:
    client = AsyncTrainerClient(LocalProcessBackendConfig())
    await client.list_optimization_jobs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await client.aclose()
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await client.list_optimization_jobs()
        fresh = AsyncTrainerClient(LocalProcessBackendConfig())
        await fresh.aclose()
        with pytest.raises(ClientClosedError):
            await fresh.list_optimization_jobs()
        del client, fresh
        gc.collect()


async def test_what_can_not_be_is_refused_by_the_trainers_client_too(home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        with pytest.raises(InvalidSpecError, match="'depth'"):
            await client.optimize(template(square), search_space={"depth": Search.int(1, 2)})


async def test_a_script_is_a_trial_that_reads_its_parameters_and_reports(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        name = await client.optimize(
            TrainJobTemplate(trainer=CustomTrainer(func=str(script))),
            search_space=_SPACE,
            objectives=[Objective("val/loss")],
            trial_config=TrialConfig(num_trials=3),
        )
        # What happens to the file meanwhile is not for this study.
        script.unlink()
        study = await client.wait_for_optimization_job_status(name, timeout=60)
        assert [trial.status for trial in study.trials] == ["complete"] * 3
        for trial in study.trials:
            (metric,) = trial.metrics
            assert (metric.name, metric.min) == ("val/loss", trial.parameters["lr"])
            assert metric.max == pytest.approx(metric.min + 2)
        await client.delete_optimization_job(name)


async def test_the_template_of_a_script_can_be_tried_with_train(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import kfasync\nprint(kfasync.get_hyperparameters())")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        name = await client.train(**TrainJobTemplate(trainer=CustomTrainer(func=script)))
        await client.wait_for_job_status(name)
        assert [line async for line in client.get_job_logs(name)] == ["{}"]
        await client.delete_job(name)
