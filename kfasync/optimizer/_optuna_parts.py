"""Our algorithms and early stopping rules as Optuna's samplers and pruners. Loaded with `_optuna` only.

Optuna warns of what is experimental and logs what it does. Both are process-wide switches, and
`warnings.catch_warnings` is not safe beside other threads, so nothing is switched off here: experimental options are
set on the finished object, and a filter drops what Optuna would log during a call of ours, in that thread only.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from optuna import distributions, pruners, samplers
from optuna.search_space import IntersectionSearchSpace
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kfasync.errors import MissingExtraError
from kfasync.optimizer._algorithms import NSGAII, TPE, Algorithm, CmaEs, GaussianProcess, Sobol
from kfasync.optimizer._parameter import CategoricalSearchSpace
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._stopping import ASHA, EarlyStopping, Hyperband, MedianStop, Patient

__all__ = ["Distributions", "SobolSampler", "forget", "make_pruner", "make_sampler", "quiet", "remade"]

Distributions = dict[str, distributions.BaseDistribution]


class _Quiet(logging.Filter):
    """Drops records of threads that are inside `quiet`."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.mine, "inside", False)


_QUIET = _Quiet()
#: Those that say something, below an error, in what is called here.
_TALKERS = ("storages._in_memory", "samplers._qmc", "samplers._cmaes", "_gp.optim_mixed", "_gp.batched_lbfgsb")


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna logs nothing from this thread meanwhile; the user's own studies in other threads do as they like.

    numpy's warnings about infinities are off, too: they are legitimate objectives.
    """
    for name in _TALKERS:
        logging.getLogger(f"optuna.{name}").addFilter(_QUIET)
    before = getattr(_QUIET.mine, "inside", False)
    _QUIET.mine.inside = True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _QUIET.mine.inside = before


class SobolSampler(samplers.QMCSampler):
    """A sequence that can go on after a resume, and that covers conditional parameters too."""

    def __init__(self, seed: int | None, scramble: bool, whole: Distributions | None) -> None:
        plain: Any = samplers.QMCSampler.__init__
        plain.__wrapped__(  # Without the warning that it is experimental.
            self,
            scramble=scramble,
            seed=seed,
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        )
        self.next_point = 0
        self._whole = whole

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        if self._whole is not None and trial.number > 0:
            return self._whole
        return super().infer_relative_search_space(study, trial)

    def _find_sample_id(self, study: Study, search_space: Distributions) -> int:
        self.next_point += 1
        return self.next_point - 1


class _CmaEs(samplers.CmaEsSampler):
    """Conditional parameters are always drawn at random.

    Optuna takes them for part of the space until a trial without one completes, and then either fails (with margin) or
    draws everything at random for ever, as the distribution has the wrong dimension.
    """

    conditional: frozenset[str] = frozenset()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        space = super().infer_relative_search_space(study, trial)
        return {name: held for name, held in space.items() if name not in self.conditional}


class _GaussianProcess(samplers.GPSampler):
    """Infinite objectives become the worst or best finite one here; Optuna does the same with a warning."""

    def _sample_relative_impl(
        self,
        study: Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: Distributions,
    ) -> dict[str, Any]:
        values = np.array([trial.values for trial in completed_trials], dtype=float)
        if not np.isfinite(values).all():
            finite = np.where(np.isfinite(values), values, np.nan)
            known = np.isfinite(values).any(axis=0)
            low = np.where(known, np.nanmin(np.where(known, finite, 0.0), axis=0), 0.0)
            high = np.where(known, np.nanmax(np.where(known, finite, 0.0), axis=0), 0.0)
            clipped = np.clip(values, low, high)
            completed_trials = [
                remade(trial, TrialState.COMPLETE, row)
                for trial, row in zip(completed_trials, clipped.tolist(), strict=True)
            ]
        return super()._sample_relative_impl(study, completed_trials, running_trials, search_space)


def forget(sampler: samplers.BaseSampler) -> None:
    """Have it look at all trials again for the parameters that they share: it takes an ended trial for final."""
    for shared in (getattr(sampler, "_search_space", None), getattr(sampler, "_intersection_search_space", None)):
        if isinstance(shared, IntersectionSearchSpace):
            shared._cached_trial_number, shared._search_space = -1, None


def remade(trial: FrozenTrial, state: TrialState, values: list[float] | None) -> FrozenTrial:
    """The same trial with another outcome."""
    return FrozenTrial(
        number=trial.number,
        trial_id=trial._trial_id,
        state=state,
        value=None,
        values=values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={},
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )


def _need(feature: str, module: str, extra: str) -> None:
    """Load what Optuna would load at the first ask, which then takes seconds and says less when it fails."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(feature, extra) from error


def make_sampler(
    algorithm: Algorithm, space: SearchSpace, whole: Distributions, seed: int | None
) -> samplers.BaseSampler:
    """The sampler of an algorithm; random where the algorithm is none of Optuna's.

    Raises:
        MissingExtraError: A library that this algorithm needs is not installed.
    """
    match algorithm:
        case TPE():
            return _tpe(algorithm, seed)
        case CmaEs():
            return _cma(algorithm, space, seed)
        case GaussianProcess():
            _need("GaussianProcess", "scipy.optimize", "optimizer")
            _need("GaussianProcess", "torch", "torch")
            process = _GaussianProcess(
                seed=seed, n_startup_trials=algorithm.n_startup_trials, warn_independent_sampling=False
            )
            process._deterministic = algorithm.deterministic_objective
            return process
        case Sobol():
            _need("Sobol", "scipy.stats.qmc", "optimizer")
            return SobolSampler(seed, algorithm.scramble, whole if space.conditional else None)
        case NSGAII():
            return samplers.NSGAIISampler(
                seed=seed,
                population_size=algorithm.population_size,
                mutation_prob=algorithm.mutation_prob,
                crossover_prob=algorithm.crossover_prob,
                swapping_prob=algorithm.swapping_prob,
            )
    return samplers.RandomSampler(seed=seed)


def _tpe(algorithm: TPE, seed: int | None) -> samplers.TPESampler:
    sampler = samplers.TPESampler(
        seed=seed,
        n_startup_trials=algorithm.n_startup_trials,
        n_ei_candidates=algorithm.n_ei_candidates,
        multivariate=True if algorithm.group else algorithm.multivariate,
        constant_liar=algorithm.constant_liar,
    )
    if algorithm.group:
        sampler._group = True
        sampler._group_decomposed_search_space = _GroupDecomposedSearchSpace(True)
    return sampler


def _cma(algorithm: CmaEs, space: SearchSpace, seed: int | None) -> samplers.CmaEsSampler:
    _need("CmaEs", "cmaes", "optimizer")
    sampler = _CmaEs(
        seed=seed,
        n_startup_trials=algorithm.n_startup_trials,
        popsize=algorithm.popsize,
        warn_independent_sampling=False,
    )
    sampler.conditional = frozenset(name for name, spec in space.parameters.items() if spec.conditions)
    numeric = sum(not isinstance(s, CategoricalSearchSpace) and not s.conditions for s in space.parameters.values())
    sampler._consider_pruned_trials = algorithm.consider_pruned_trials
    sampler._with_margin = algorithm.with_margin
    sampler._lr_adapt = algorithm.lr_adapt
    # One dimension has no covariance; Optuna ignores the option there, with a warning.
    sampler._use_separable_cma = algorithm.use_separable_cma and numeric > 1
    if sampler._use_separable_cma:
        sampler._attr_prefix = "sepcma:"
    elif sampler._with_margin:
        sampler._attr_prefix = "cmawm:"
    return sampler


def make_pruner(rule: EarlyStopping | None) -> pruners.BasePruner:
    """The pruner of a rule."""
    match rule:
        case None:
            return pruners.NopPruner()
        case MedianStop():
            return pruners.MedianPruner(
                rule.n_startup_trials, rule.n_warmup_steps, rule.interval_steps, n_min_trials=rule.n_min_trials
            )
        case ASHA():
            return pruners.SuccessiveHalvingPruner(
                rule.min_resource, rule.reduction_factor, rule.min_early_stopping_rate, rule.bootstrap_count
            )
        case Hyperband():
            return pruners.HyperbandPruner(
                rule.min_resource, rule.max_resource, rule.reduction_factor, rule.bootstrap_count
            )
        case Patient():
            patient = pruners.PatientPruner.__new__(pruners.PatientPruner)
            init: Any = pruners.PatientPruner.__init__
            wrapped = None if rule.wrapped is None else make_pruner(rule.wrapped)
            init.__wrapped__(patient, wrapped, rule.patience, rule.min_delta)  # It is experimental, too.
            return patient
    raise TypeError(rule)
