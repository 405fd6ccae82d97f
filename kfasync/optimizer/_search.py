"""Kubeflow's `Search`, with more distributions and typed values. Pure."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any

from kfasync.optimizer._parameter import CategoricalSearchSpace
from kfasync.optimizer._ranges import (
    ContinuousSearchSpace,
    Distribution,
    IntegerSearchSpace,
    LogNormalSearchSpace,
    NormalSearchSpace,
    QuantizedSearchSpace,
)

__all__ = ["Search"]


class Search:
    """How a hyperparameter is searched.

    Every method returns a frozen description; ``.when(other, values)`` on it makes the parameter conditional. Mistakes
    are reported where the parameter's name is known: by `SearchSpace`, and so by ``optimize``.

    Example:
        >>> space = {
        ...     "optimizer": Search.choice(["adam", "sgd"]),
        ...     "learning_rate": Search.loguniform(1e-5, 1e-1),
        ...     "momentum": Search.uniform(0, 1).when("optimizer", "sgd"),
        ...     "layers": Search.int(1, 8),
        ... }
    """

    @staticmethod
    def uniform(min: float, max: float) -> ContinuousSearchSpace:
        """A float, all values between the bounds equally likely.

        Args:
            min: Smallest value.
            max: Largest value, greater than ``min``.
        """
        return ContinuousSearchSpace(min, max, Distribution.UNIFORM)

    @staticmethod
    def loguniform(min: float, max: float) -> ContinuousSearchSpace:
        """A float, all magnitudes between the bounds equally likely.

        Args:
            min: Smallest value, greater than 0.
            max: Largest value, greater than ``min``.
        """
        return ContinuousSearchSpace(min, max, Distribution.LOG_UNIFORM)

    @staticmethod
    def choice(values: Iterable[Any]) -> CategoricalSearchSpace:
        """One of several values, which reaches the function in its own type.

        Args:
            values: None, bools, ints, floats (nan and the infinities too) and strings, each once, in an order.

        Example:
            >>> Search.choice([16, 32]).choices
            (16, 32)
        """
        # A generator is read here: a frozen value can be looked at more than once.
        listed = isinstance(values, Iterable) and not isinstance(values, str | bytes | dict | set | frozenset)
        return CategoricalSearchSpace(tuple(values) if listed else values)  # type: ignore[arg-type]

    @staticmethod
    def logint(min: builtins.int, max: builtins.int) -> IntegerSearchSpace:
        """An int, all magnitudes between the bounds equally likely.

        Args:
            min: Smallest value, 1 or more.
            max: Largest value, greater than ``min``.
        """
        return IntegerSearchSpace(min, max, 1, Distribution.LOG_UNIFORM)

    @staticmethod
    def quniform(min: float, max: float, q: float) -> QuantizedSearchSpace:
        """A float in steps, as Optuna has it: ``min``, ``min + q``, … up to ``max``.

        Ray Tune rounds to multiples of ``q`` instead, which is the same where ``min`` is such a multiple.

        Args:
            min: Smallest value.
            max: Upper bound, reached only if ``q`` divides the range.
            q: The step, greater than 0.
        """
        return QuantizedSearchSpace(min, max, q)

    @staticmethod
    def normal(mean: float, std: float) -> NormalSearchSpace:
        """A float from the normal distribution.

        Args:
            mean: Its mean.
            std: Its standard deviation, greater than 0.
        """
        return NormalSearchSpace(mean, std)

    @staticmethod
    def lognormal(mean: float, std: float) -> LogNormalSearchSpace:
        """A positive float whose natural logarithm is normal.

        Args:
            mean: Mean of the logarithm.
            std: Standard deviation of the logarithm, greater than 0.
        """
        return LogNormalSearchSpace(mean, std)

    # Last, for it hides the builtin from what follows.
    @staticmethod
    def int(min: builtins.int, max: builtins.int, step: builtins.int = 1) -> IntegerSearchSpace:
        """An int, all values equally likely.

        Args:
            min: Smallest value.
            max: Upper bound, a value itself only if ``step`` divides the range.
            step: Distance of the values, 1 or more.
        """
        return IntegerSearchSpace(min, max, step, Distribution.UNIFORM)
