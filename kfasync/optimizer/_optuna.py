"""A study of Optuna's that is fed with our trials. Loaded when a `Sampler` is made, and Optuna with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import distributions
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from kfasync.optimizer._algorithms import Algorithm, RandomSearch
from kfasync.optimizer._objective import Objective, TrialState
from kfasync.optimizer._optuna_parts import SobolSampler, forget, make_pruner, make_sampler, quiet, remade
from kfasync.optimizer._parameter import CategoricalSearchSpace, ParameterSpec, Value
from kfasync.optimizer._ranges import (
    ContinuousSearchSpace,
    Distribution,
    IntegerSearchSpace,
    NormalSearchSpace,
    QuantizedSearchSpace,
)
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._stopping import EarlyStopping

__all__ = ["STATES", "Fed", "decode", "distribution", "encode", "importances", "quiet"]

STATES = {
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.PRUNED: OptunaState.PRUNED,
}


def distribution(spec: ParameterSpec) -> distributions.BaseDistribution:
    """What Optuna samples for a spec: choices by index (it takes 1 for True), normals as their quantile's position."""
    match spec:
        case ContinuousSearchSpace():
            return distributions.FloatDistribution(
                spec.min, spec.max, log=spec.distribution == Distribution.LOG_UNIFORM
            )
        case IntegerSearchSpace():
            log = spec.distribution == Distribution.LOG_UNIFORM
            return distributions.IntDistribution(spec.min, spec.last, log=log, step=spec.step)
        case QuantizedSearchSpace():
            steps = distributions.FloatDistribution(spec.min, spec.at(spec.steps))
            # Given to the constructor it would be compared in decimal, with a warning if the last digit differs.
            steps.step = spec.q
            if spec.steps and steps.single():
                # In decimal its two values lie a bit less than a step apart, and Optuna would take them for one.
                steps.high = math.nextafter(steps.high, math.inf)
            return steps
        case CategoricalSearchSpace():
            return distributions.CategoricalDistribution(range(len(spec.choices)))
        case NormalSearchSpace():
            return distributions.FloatDistribution(0.0, 1.0)
    raise TypeError(spec)


def encode(spec: ParameterSpec, value: Value) -> Any:
    """A value of ours as the value that Optuna holds for it."""
    match spec:
        case CategoricalSearchSpace():
            return spec.index(value)
        case QuantizedSearchSpace():
            # Optuna's own arithmetic, so that a study fed again is the same to the last bit.
            return float(np.clip(spec.step_of(float(value or 0)) * spec.q + spec.min, spec.min, spec.at(spec.steps)))
        case NormalSearchSpace():
            return spec.position(float(value or 0))
    return value


def decode(spec: ParameterSpec, held: Any) -> Value:
    """The value of ours for what Optuna holds."""
    match spec:
        case CategoricalSearchSpace():
            return spec.choices[int(held)]
        case QuantizedSearchSpace():
            return spec.at(spec.step_of(held))
        case NormalSearchSpace():
            return spec.at(held)
        case IntegerSearchSpace():
            return int(held)
        case ContinuousSearchSpace():
            # exp(log(min)) may lie a bit below min.
            return float(min(max(held, spec.min), spec.max))
    raise TypeError(spec)


class _Memory(InMemoryStorage):
    """Optuna's storage in memory, where a trial can be put in and corrected."""

    def append(self, study_id: int, trial: FrozenTrial) -> None:
        """Take a trial as it is: `create_new_trial` copies it in depth, which is most of a long study's resume."""
        with self._lock:
            number = len(self._studies[study_id].trials)
            self._max_trial_id += 1
            trial.number, trial._trial_id = number, self._max_trial_id
            self._trial_id_to_study_id_and_number[trial._trial_id] = (study_id, number)
            self._studies[study_id].trials.append(trial)
            self._studies[study_id].param_distribution.update(trial.distributions)

    def count(self, study_id: int) -> int:
        """How many trials there are."""
        return len(self._studies[study_id].trials)

    def replace(self, trial: FrozenTrial) -> None:
        """Put a corrected outcome in the place of what was known: ours is the truth, Optuna's trials are final."""
        with self._lock:
            self._set_trial(trial._trial_id, trial)


class Fed:
    """An Optuna study in memory; the numbers of its trials are ours. Not safe for several threads at once.

    Args:
        space: Where to search.
        objectives: What to optimise.
        algorithm: How.
        stopping: When to end a trial early.
        name: Name of the study.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: tuple[Objective, ...],
        algorithm: Algorithm,
        stopping: EarlyStopping | None,
        name: str,
    ) -> None:
        self._space, self._algorithm = space, algorithm
        self._seed = getattr(algorithm, "random_state", None)
        self._distributions = {n: distribution(spec) for n, spec in space.parameters.items()}
        self._storage = _Memory()
        directions = [StudyDirection[objective.direction.upper()] for objective in objectives]
        self._id = self._storage.create_new_study(directions, name)
        sampler = make_sampler(algorithm, space, self._distributions, self._seed)
        self._study = Study(name, self._storage, sampler=sampler, pruner=make_pruner(stopping))

    def trial(self, number: int) -> FrozenTrial:
        """A trial as Optuna holds it."""
        return self._storage.get_trial(self._storage.get_trial_id_from_study_id_trial_number(self._id, number))

    @property
    def count(self) -> int:
        """How many trials there are."""
        return self._storage.count(self._id)

    def ended(self, number: int) -> bool:
        """Whether a trial has ended."""
        return self.trial(number).state.is_finished()

    def steps(self, number: int) -> Mapping[int, float]:
        """What a trial has reported."""
        return self.trial(number).intermediate_values

    def noted(self, number: int) -> Mapping[str, Any]:
        """What the sampler and the pruner noted on a trial."""
        return self.trial(number).system_attrs

    def go_on(self, draws: int) -> None:
        """Before the first `suggest`: go on where the trials that were appended left off.

        Args:
            draws: How many random numbers they took, if all were random.
        """
        sampler = self._study.sampler
        if isinstance(sampler, RandomSampler):
            if draws:
                # A choice among n takes n numbers. The trial is not looked at.
                skipped = distributions.CategoricalDistribution(range(draws))
                sampler.sample_independent(self._study, self.trial(0), "", skipped)
        elif isinstance(sampler, SobolSampler):
            # The first trial takes no point of the sequence.
            sampler.next_point = max(self.count - 1, 0)
        elif self.count and self._seed is not None:
            mixed = (self._seed + 0x9E3779B1 * self.count) % 2**32
            self._study.sampler = make_sampler(self._algorithm, self._space, self._distributions, mixed)

    def suggest(self, fixed: Mapping[str, Value]) -> dict[str, Value]:
        """The parameters of the next trial, of which some may be fixed."""
        specs = self._space.parameters
        if fixed:
            self._study.enqueue_trial({name: encode(specs[name], value) for name, value in fixed.items()})
        trial = self._study.ask()
        point: dict[str, Value] = {}
        try:
            for name, spec in specs.items():
                if self._space.active(name, point):
                    held = trial._suggest(name, self._distributions[name])
                    point[name] = fixed[name] if name in fixed else decode(spec, held)
        except BaseException:
            # It must not stay pending: nobody will run it.
            self.end(trial.number, TrialState.FAILED, None)
            raise
        return point

    def append(
        self,
        state: TrialState,
        point: Mapping[str, Value],
        values: list[float] | None = None,
        steps: dict[int, float] | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """Take up a trial that exists already as the next one."""
        specs = self._space.parameters
        trial = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=STATES[state],
            value=None,
            values=values,
            datetime_start=None,
            datetime_complete=None,
            params={name: encode(specs[name], value) for name, value in point.items()},
            distributions={name: self._distributions[name] for name in point},
            user_attrs={},
            system_attrs=notes or {},
            intermediate_values=steps or {},
        )
        self._storage.append(self._id, trial)

    def report(self, number: int, step: int, value: float) -> None:
        """Note a value of a running trial."""
        self._storage.set_trial_intermediate_value(self.trial(number)._trial_id, step, value)

    def prunes(self, number: int) -> bool:
        """Whether the pruner would end a trial."""
        return bool(self._study.pruner.prune(self._study, self.trial(number)))

    def end(self, number: int, state: TrialState, values: list[float] | None) -> None:
        """Note how a trial ended, or that it ended otherwise than was said."""
        trial = self.trial(number)
        if trial.state.is_finished():
            self._storage.replace(remade(trial, STATES[state], values))
            forget(self._study.sampler)
        else:
            self._study.tell(number, values if state == TrialState.COMPLETE else None, STATES[state])

    def importances(self) -> dict[str, float]:
        """How much each parameter matters for being among the best tenth of the complete trials; in sum 1."""
        # Not above: a study's driver loads this file, and needs to be fast.
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        evaluator = PedAnovaImportanceEvaluator()
        # Below it Optuna warns and leaves out a parameter that only one trial has, or lacks: it decides nothing anyhow.
        evaluator._min_n_trials_in_regime = 1
        return get_param_importances(self._study, evaluator=evaluator)


def importances(
    space: SearchSpace, objective: Objective, points: Sequence[Mapping[str, Value]], values: Sequence[float]
) -> dict[str, float]:
    """How much each parameter matters for an objective, conditional ones included.

    Args:
        space: What was searched.
        objective: What was optimised.
        points: The parameters of the complete trials.
        values: The objective's value of each, finite, not all the same.

    Returns:
        Shares by parameter, in sum 1. A parameter that none of the trials has is left out.
    """
    with quiet():
        fed = Fed(space, (objective,), RandomSearch(), None, "importances")
        for point, value in zip(points, values, strict=True):
            fed.append(TrialState.COMPLETE, point, [value])
        return fed.importances()
