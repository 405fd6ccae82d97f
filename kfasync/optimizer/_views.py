"""What a study is, as Kubeflow's users know it: `OptimizationJob`, `Trial`, `Result`, `Metric`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kfasync.optimizer._algorithms import Algorithm
from kfasync.optimizer._objective import Objective, TrialConfig, TrialState
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._stopping import EarlyStopping
from kfasync.optimizer._study import StopRules, Study, TrialRecord, objective_values, unbeaten
from kfasync.optimizer._wording import shown_all, visible
from kfasync.state._metrics import MetricSummary

if TYPE_CHECKING:
    from pandas import DataFrame

    from kfasync.jobs import TrainJob
    from kfasync.optimizer._curves import Curves
    from kfasync.optimizer._plots import Plots
    from kfasync.state import JobState

__all__ = [
    "Metric",
    "OptimizationJob",
    "Result",
    "Trial",
    "TrialList",
    "metrics_of",
    "result_of",
    "study_of",
    "trial_of",
]


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

    def _repr_html_(self) -> str:
        from kfasync.optimizer._html import result_html

        return result_html(self)


@dataclass(repr=False)
class Trial:
    """One trial.

    Attributes:
        name: The name of its job.
        parameters: Its hyperparameters, typed.
        trainjob: Its job; None when that was deleted.
        metrics: What it reported, once it has ended.
        number: Its number in the study, from 0.
        status: ``running``, ``complete``, ``failed`` or ``pruned``.
        reason: Why it failed, as a typed word.
        parent: The name of the job whose checkpoint it started with; empty where it started from nothing.
        message: Why, for a person.
        started: When it was decided on, in UTC.
        finished: When its end was recorded; None while it runs.
        curves: Steps and values by metric, the steps ascending; None where they were not asked for.
    """

    name: str
    parameters: dict[str, Any]
    trainjob: TrainJob | None
    metrics: list[Metric] = field(default_factory=list)
    number: int = 0
    status: str = "running"
    reason: str = ""
    parent: str = ""
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    # With or without them it is the same trial.
    curves: Curves | None = field(default=None, compare=False)

    @property
    def duration(self) -> float | None:
        """Seconds from its start to its end; None while it runs."""
        if self.started is None or self.finished is None:
            return None
        return (self.finished - self.started).total_seconds()

    def __repr__(self) -> str:
        why = f" ({visible(self.reason)})" if self.reason else ""
        latest = shown_all({metric.name: metric.latest for metric in self.metrics})
        told = f" -> {latest}" if latest else ""
        return f"<Trial {self.number} {self.name}: {self.status}{why}, {shown_all(self.parameters)}{told}>"

    def _repr_html_(self) -> str:
        from kfasync.optimizer._html import trial_html

        return trial_html(self)


class TrialList(list[Trial]):
    """Trials, of which print shows one a line and a notebook a table."""

    def __repr__(self) -> str:
        return "[\n" + "".join(f"  {trial!r},\n" for trial in self) + "]" if self else "[]"

    def _repr_html_(self) -> str:
        from kfasync.optimizer._html import trials_html

        return trials_html(self)


@dataclass(repr=False)
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
        early_stopping: When a trial is ended early.
        stop: When the study is.
        finished: When it ended; None while it goes on.
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
    early_stopping: EarlyStopping | None = None
    stop: StopRules = field(default_factory=StopRules)
    finished: datetime | None = None

    @property
    def best(self) -> list[Trial]:
        """The complete trials that no other one beats: one of them for one objective, else the Pareto front."""
        complete = [trial for trial in self.trials if trial.status == TrialState.COMPLETE]
        return [complete[index] for index in unbeaten(self.objectives, [self.achieved(trial) for trial in complete])]

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are ``running``, ``complete``, ``failed`` and ``pruned``."""
        found = Counter(trial.status for trial in self.trials)
        return {state.value: found[state.value] for state in TrialState}

    def achieved(self, trial: Trial) -> dict[str, float]:
        """A trial's best value of each objective, by metric; one that it never reported is left out."""
        told = {each.name: MetricSummary(each.min, each.max, each.latest) for each in trial.metrics}
        return objective_values(self.objectives, told)

    @property
    def plot(self) -> Plots:
        """Figures of the study.

        Example:
            >>> client.get_job(name).plot.history().show()  # doctest: +SKIP
        """
        from kfasync.optimizer._plots import Plots

        return Plots(self)

    def to_dataframe(self) -> DataFrame:
        """The trials as a pandas data frame, one row a trial.

        Returns:
            Columns: ``number``, ``name``, ``status``, ``reason``, ``started``, ``finished``, ``duration``,
            ``objective.<metric>`` with the best value of each objective, ``params.<name>``, and
            ``metrics.<name>.latest``, ``.min`` and ``.max``. What a trial lacks is missing (NaN, NaT or None).

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from kfasync.optimizer._frame import frame_of

        return frame_of(self)

    def __repr__(self) -> str:
        why = f" ({visible(self.reason)})" if self.reason else ""
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count) or "none yet"
        best = "; best: " + ", ".join(map(repr, self.best)) if self.best else ""
        return f"<OptimizationJob {self.name}: {self.status}{why}, trials: {counts}{best}>"

    def _repr_html_(self) -> str:
        from kfasync.optimizer._html import study_html

        return study_html(self)


def metrics_of(trial: TrialRecord) -> list[Metric]:
    """A trial's metrics as Kubeflow shows them."""
    return [Metric(name, each.min, each.max, each.latest) for name, each in trial.metrics.items()]


def result_of(trial: TrialRecord) -> Result:
    """A trial as a result."""
    return Result(dict(trial.parameters), metrics_of(trial))


def trial_of(trial: TrialRecord, job: TrainJob | None = None, curves: Curves | None = None) -> Trial:
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
        message=trial.message,
        started=_moment(trial.started),
        finished=_moment(trial.finished),
        curves=curves,
    )


def study_of(
    state: JobState,
    study: Study,
    jobs: Mapping[str, TrainJob],
    told: Mapping[str, str],
    curves: Mapping[str, Curves] | None = None,
) -> OptimizationJob:
    """A study as it is now.

    Args:
        state: Of its own job.
        study: Its bookkeeping, up to now.
        jobs: The trials' jobs by name, as far as they are there.
        told: Reason and message of its end, where its job has none.
        curves: What the trials reported, by the names of their jobs; None where nobody asked.
    """
    described = state.spec["extra"]["study"]
    stopping = described["stopping"]
    return OptimizationJob(
        name=state.name,
        search_space=dict(SearchSpace.from_dict(described["search_space"]).parameters),
        objectives=list(study.objectives),
        algorithm=Algorithm.from_dict(described["algorithm"]),
        trial_config=study.config,
        trials=TrialList(
            trial_of(trial, jobs.get(trial.name), None if curves is None else curves.get(trial.name, {}))
            for trial in study.trials.values()
        ),
        creation_timestamp=datetime.fromtimestamp(state.created, UTC),
        status=state.status.value,
        reason=state.reason or told.get("reason", ""),
        message=state.message or told.get("message", ""),
        early_stopping=None if stopping is None else EarlyStopping.from_dict(stopping),
        stop=study.rules,
        finished=_moment(state.finished),
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
