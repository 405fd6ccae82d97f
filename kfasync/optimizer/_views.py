"""What a study is, as Kubeflow's users know it: `OptimizationJob`, `Trial`, `Result`, `Metric`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kfasync.optimizer._algorithms import Algorithm
from kfasync.optimizer._objective import Objective, TrialConfig
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._study import Study, TrialRecord

if TYPE_CHECKING:
    from kfasync.jobs import TrainJob
    from kfasync.state import JobState

__all__ = ["Metric", "OptimizationJob", "Result", "Trial", "metrics_of", "result_of", "study_of", "trial_of"]


@dataclass
class Metric:
    """Smallest, largest and latest value of a metric. Numbers, where Kubeflow has strings."""

    name: str
    min: float
    max: float
    latest: float


@dataclass
class Result:
    """A trial's hyperparameters, typed, and what they achieved."""

    parameters: dict[str, Any]
    metrics: list[Metric]


@dataclass
class Trial:
    """One trial.

    Attributes:
        name: The name of its job.
        parameters: Its hyperparameters, typed.
        trainjob: Its job; None when that was deleted.
        metrics: What it reported, once it has ended.
        number: Its number in the study, from 0.
        status: ``running``, ``complete``, ``failed`` or ``pruned``.
        reason: Why it failed.
        parent: The name of the job whose checkpoint it started with; empty where it started from nothing.
    """

    name: str
    parameters: dict[str, Any]
    trainjob: TrainJob | None
    metrics: list[Metric] = field(default_factory=list)
    number: int = 0
    status: str = "running"
    reason: str = ""
    parent: str = ""


@dataclass
class OptimizationJob:
    """A study.

    Attributes:
        name: Its name.
        search_space: What is searched, by parameter.
        objectives: What is optimised.
        algorithm: How.
        trial_config: How many trials.
        trials: Those that there are, by number.
        creation_timestamp: When it was created.
        status: ``Created``, ``Running``, ``Suspended``, ``Complete`` or ``Failed``.
        reason: Why it ended, or does not go on.
        message: What a person needs to know.
    """

    name: str
    search_space: dict[str, Any]
    objectives: list[Objective]
    algorithm: Algorithm
    trial_config: TrialConfig
    trials: list[Trial]
    creation_timestamp: datetime
    status: str = "Unknown"
    reason: str = ""
    message: str = ""


def metrics_of(trial: TrialRecord) -> list[Metric]:
    """A trial's metrics as Kubeflow shows them."""
    return [Metric(name, each.min, each.max, each.latest) for name, each in trial.metrics.items()]


def result_of(trial: TrialRecord) -> Result:
    """A trial as a result."""
    return Result(dict(trial.parameters), metrics_of(trial))


def trial_of(trial: TrialRecord, job: TrainJob | None = None) -> Trial:
    """A trial as Kubeflow's users know it, with its job where there is one."""
    return Trial(
        name=trial.name,
        parameters=dict(trial.parameters),
        trainjob=job,
        metrics=metrics_of(trial),
        number=trial.number,
        status=trial.state.value,
        reason=trial.reason,
        parent=trial.parent,
    )


def study_of(state: JobState, study: Study, jobs: Mapping[str, TrainJob], told: Mapping[str, str]) -> OptimizationJob:
    """A study as it is now.

    Args:
        state: Of its own job.
        study: Its bookkeeping, up to now.
        jobs: The trials' jobs by name, as far as they are there.
        told: Reason and message of its end, where its job has none.
    """
    described = state.spec["extra"]["study"]
    return OptimizationJob(
        name=state.name,
        search_space=dict(SearchSpace.from_dict(described["search_space"]).parameters),
        objectives=list(study.objectives),
        algorithm=Algorithm.from_dict(described["algorithm"]),
        trial_config=study.config,
        trials=[trial_of(trial, jobs.get(trial.name)) for trial in study.trials.values()],
        creation_timestamp=datetime.fromtimestamp(state.created, UTC),
        status=state.status.value,
        reason=state.reason or told.get("reason", ""),
        message=state.message or told.get("message", ""),
    )
