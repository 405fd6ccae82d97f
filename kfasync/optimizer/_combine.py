"""Which spaces, objectives, algorithms and rules go together. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from kfasync.errors import InvalidSpecError
from kfasync.optimizer._algorithms import PBT, Algorithm, GaussianProcess, GridSearch
from kfasync.optimizer._objective import Objective, TrialConfig
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._stopping import EarlyStopping

__all__ = ["check_population", "check_search"]

_LARGEST_AXIS = 100_000


def check_search(
    space: SearchSpace, objectives: Sequence[Objective], algorithm: Algorithm, stopping: EarlyStopping | None = None
) -> None:
    """Raise where these don't go together.

    Raises:
        InvalidSpecError: No objective, or one twice; several with an algorithm or a rule for one; a grid over a
            continuous parameter; more steps than GaussianProcess can hold; PBT with a conditional parameter or an
            early stopping rule; or not an algorithm at all.
    """
    if not isinstance(algorithm, Algorithm):
        raise InvalidSpecError(f"{algorithm!r} is no algorithm: use RandomSearch(), TPE(), … of kfasync.optimizer")
    if stopping is not None and not isinstance(stopping, EarlyStopping):
        raise InvalidSpecError(f"{stopping!r} is no early stopping rule: use MedianStop(), ASHA(), … or None")
    metrics = [objective.metric for objective in objectives]
    if not metrics:
        raise InvalidSpecError("objectives is empty: name at least one metric to optimise")
    if len(set(metrics)) < len(metrics):
        raise InvalidSpecError(f"an objective is listed twice: {metrics}")
    if len(metrics) > 1 and not algorithm.several_objectives:
        raise InvalidSpecError(f"{type(algorithm).__name__} optimises one objective, not {metrics}: use TPE or NSGAII")
    if len(metrics) > 1 and stopping is not None:
        raise InvalidSpecError(f"{type(stopping).__name__} compares trials by one objective, not by {metrics}")
    if isinstance(algorithm, GridSearch):
        space.grid()
    if isinstance(algorithm, GaussianProcess):
        _check_axes(space)
    if isinstance(algorithm, PBT):
        _check_members(space, stopping)


def check_population(algorithm: Algorithm, config: TrialConfig, points: int) -> None:
    """Raise where a population can't be trained with so many trials; nothing happens to other algorithms.

    Args:
        algorithm: The algorithm.
        config: The study's trials.
        points: Points that the user wants tried first.

    Raises:
        InvalidSpecError: No trial is left to go on from another, some would never find a member that is free, or a
            point would have no member to begin with.
    """
    if not isinstance(algorithm, PBT):
        return
    size = algorithm.population_size
    if config.num_trials <= size:
        raise InvalidSpecError(
            f"num_trials={config.num_trials} is not more than PBT's population_size={size}: every trial would be the "
            "first of its member; allow several for each"
        )
    if config.parallel_trials > size:
        raise InvalidSpecError(
            f"parallel_trials={config.parallel_trials} is more than PBT's population_size={size}: a member is trained "
            "by one trial at a time"
        )
    if points > size:
        raise InvalidSpecError(f"enqueue has {points} points, and PBT only population_size={size} members to begin")


def _check_members(space: SearchSpace, stopping: EarlyStopping | None) -> None:
    """Trials of PBT go on from each other: they need the same parameters, and to come to their ends."""
    for name, spec in space.parameters.items():
        if spec.conditions:
            raise InvalidSpecError(
                f"parameter {name!r} is conditional, and PBT changes the parameters of a model in training, which has "
                "all of them: search it without .when(), or use another algorithm"
            )
    if stopping is not None:
        raise InvalidSpecError(
            f"early_stopping={type(stopping).__name__} ends trials that would leave no checkpoint, and PBT gives bad "
            "ones up by itself: leave it out"
        )


def _check_axes(space: SearchSpace) -> None:
    """Optuna's Gaussian process holds every step of a parameter in memory."""
    for name, spec in space.parameters.items():
        if spec.grid() is not None and next(itertools.islice(spec.grid() or (), _LARGEST_AXIS, None), None) is not None:
            raise InvalidSpecError(
                f"parameter {name!r} has more than {_LARGEST_AXIS:,} steps, too many for GaussianProcess: "
                "search it as a continuous one, or use TPE"
            )
