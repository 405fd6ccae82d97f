"""One study as Optuna would hold it, kept by the events of its job and of its trials' jobs. Loaded with Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna import distributions
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from kfasync.events import JobSubmitted, MetricReported, TrialEnded, TrialReported, TrialStarted
from kfasync.optimizer._checks import LARGEST
from kfasync.optimizer._curves import Curve
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._optuna import STATES, distribution
from kfasync.optimizer._parameter import CategoricalSearchSpace, ParameterSpec, Value
from kfasync.optimizer._ranges import IntegerSearchSpace, LogNormalSearchSpace, NormalSearchSpace
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._study import Study, TrialRecord, objective_values
from kfasync.state import JobState

__all__ = ["StudyMirror", "natural"]


def natural(spec: ParameterSpec) -> distributions.BaseDistribution:
    """A spec in the numbers that a person knows; what algorithms are given (`distribution`) are codes, for some."""
    match spec:
        case CategoricalSearchSpace():
            return distributions.CategoricalDistribution(spec.choices)
        case NormalSearchSpace():
            # Optuna has no normal distribution. Between these bounds lies all that an algorithm tries.
            return distributions.FloatDistribution(spec.at(0), spec.at(1), log=isinstance(spec, LogNormalSearchSpace))
    return distribution(spec)


def _widened(known: distributions.BaseDistribution, value: Value) -> distributions.BaseDistribution:
    """The same, with a value in it that a user asked to be tried: a normal variable may be anything."""
    if not isinstance(known, distributions.FloatDistribution) or known.low <= float(value or 0) <= known.high:
        return known
    low, high = min(known.low, float(value or 0)), max(known.high, float(value or 0))
    return distributions.FloatDistribution(low, high, log=known.log)


class StudyMirror:
    """One study.

    Attributes:
        id: What Optuna calls it by: its place in the journal, the same for every reader.
        name: Its name.
        uid: The identity of its job.
        trials: Its trials, by number. None is ever changed: another one comes in its place.
        state: Its own job, as far as it was looked at.

    Args:
        submitted: The event of its job's submit.
    """

    def __init__(self, submitted: JobSubmitted) -> None:
        told = submitted.spec["extra"]["study"]
        self.id, self.name, self.uid = submitted.cursor, submitted.job, submitted.uid
        self.trials: list[FrozenTrial] = []
        self.state: JobState | None = None
        self._told = told
        self._study = Study.described(told)
        self._specs = SearchSpace.from_dict(told["search_space"]).parameters
        self._distributions = {name: natural(spec) for name, spec in self._specs.items()}
        self._steps: dict[int, dict[int, float]] = {}
        self._curves: dict[str, Curve] = {}
        self._numbers: dict[str, int] = {}
        self._stale: set[int] = set()

    @property
    def frozen(self) -> FrozenStudy:
        """The study without its trials."""
        return FrozenStudy(
            study_name=self.name,
            direction=None,
            directions=self.directions,
            user_attrs=self.user_attrs,
            system_attrs=self.system_attrs,
            study_id=self.id,
        )

    @property
    def directions(self) -> list[StudyDirection]:
        """Which way is better, by objective."""
        return [StudyDirection[objective.direction.upper()] for objective in self._study.objectives]

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What a person may want to know of it."""
        told = {"algorithm": self._told["algorithm"], "trial_config": self._told["trial_config"]}
        if self.state is not None:
            told |= {"status": self.state.status.value, "reason": self.state.reason, "message": self.state.message}
        return told

    @property
    def system_attrs(self) -> dict[str, Any]:
        """The objectives' names, where Optuna looks for them."""
        return {_SYSTEM_ATTR_METRIC_NAMES: [objective.metric for objective in self._study.objectives]}

    def take(self, event: TrialStarted | TrialReported | TrialEnded) -> None:
        """Take in an event of the study's job."""
        self._study.apply(event)
        self._stale.add(event.number)
        if isinstance(event, TrialStarted):
            self._numbers[event.trial] = event.number
            first = self._study.objectives[0]
            self._curves[event.trial] = Curve(first.metric, first.rank)
            self._steps[event.number] = {}  # What an earlier try of it reported does not count.
            if event.number == len(self.trials):
                self.trials.append(FrozenTrial(**_nobody(event.number, event.cursor)))
            self._widen(event.parameters)
        elif isinstance(event, TrialReported):
            self._note(event.number, event.step, event.value)

    def hear(self, event: MetricReported) -> None:
        """Take in what a trial's job reported."""
        number = self._numbers.get(event.job)
        if number is None or self._study.trials[number].name != event.job:
            return
        point = self._curves[event.job].point(event.step, event.values, event.rank)
        if point is not None:
            self._note(number, *point)

    def _note(self, number: int, step: float, value: float) -> None:
        # Optuna's steps are whole numbers from 0; the last value of each counts, as it does for early stopping.
        if 0 <= step < LARGEST:
            self._steps[number][int(step)] = value
            self._stale.add(number)

    def _widen(self, parameters: Mapping[str, Value]) -> None:
        for name, value in parameters.items():
            wider = self._distributions[name]
            if isinstance(self._specs[name], NormalSearchSpace):
                wider = _widened(wider, value)
            if wider is not self._distributions[name]:
                # In all trials, or they would not seem to be of one space.
                self._distributions[name] = wider
                self._stale.update(self._study.trials)

    def renew(self) -> None:
        """Bring `trials` up to what was taken in."""
        for number in self._stale:
            self.trials[number] = self._frozen(self._study.trials[number], self.trials[number]._trial_id)
        self._stale.clear()

    def _frozen(self, trial: TrialRecord, trial_id: int) -> FrozenTrial:
        steps = dict(self._steps[trial.number])
        values = self._values(trial, steps)
        state = STATES[trial.state]
        if state is OptunaState.COMPLETE and values is None:
            state = OptunaState.FAIL
        return FrozenTrial(
            number=trial.number,
            trial_id=trial_id,
            state=state,
            value=None,
            values=values,
            datetime_start=datetime.fromtimestamp(trial.started),
            datetime_complete=None if trial.finished is None else datetime.fromtimestamp(trial.finished),
            params={name: _number(self._specs[name], value) for name, value in trial.parameters.items()},
            distributions={name: self._distributions[name] for name in trial.parameters},
            user_attrs=self._attrs(trial),
            system_attrs={},
            intermediate_values=steps,
        )

    def _values(self, trial: TrialRecord, steps: Mapping[int, float]) -> Sequence[float] | None:
        if trial.state is TrialState.PRUNED and len(self._study.objectives) == 1 and steps:
            # As Optuna does it: what a pruned trial reported last.
            last = steps[max(steps)]
            return None if math.isnan(last) else [last]
        if trial.state is not TrialState.COMPLETE:
            return None
        values = objective_values(self._study.objectives, trial.metrics)
        held = [values.get(objective.metric) for objective in self._study.objectives]
        return None if None in held else [value for value in held if value is not None]

    def _attrs(self, trial: TrialRecord) -> dict[str, Any]:
        told = {name: getattr(trial, name) for name in ("parent", "reason", "message", "retries")} | {"job": trial.name}
        goals = {objective.metric for objective in self._study.objectives}
        others = {name: summary.latest for name, summary in trial.metrics.items() if name not in goals}
        return others | {name: value for name, value in told.items() if value}


def _nobody(number: int, trial_id: int) -> dict[str, Any]:
    """A trial of which nothing is known but that it is there, until `renew`."""
    fields: dict[str, Any] = dict.fromkeys(("value", "datetime_start", "datetime_complete"))
    fields |= {name: {} for name in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values")}
    return fields | {"number": number, "trial_id": trial_id, "state": OptunaState.RUNNING}


def _number(spec: ParameterSpec, value: Value) -> Value:
    """A value in the type that its spec gives it."""
    if isinstance(spec, CategoricalSearchSpace) or value is None:
        return value
    return int(value) if isinstance(spec, IntegerSearchSpace) else float(value)
