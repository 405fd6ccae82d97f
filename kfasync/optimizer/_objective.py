"""What a study optimises, and how many trials it may spend. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from kfasync.errors import InvalidSpecError
from kfasync.optimizer._checks import whole

__all__ = ["Direction", "Objective", "TrialConfig", "TrialState"]


class Direction(StrEnum):
    """Which way is better. A member equals its text (Kubeflow's does not)."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class TrialState(StrEnum):
    """Where a trial stands, for an algorithm. A member equals its text."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    PRUNED = "pruned"


@dataclass
class Objective:
    """A metric to optimise.

    A trial achieved the best value that it ever reported, as with Katib, not the last one. What counts:

    * What `kfasync.report` is given, by any name.
    * What is printed on stdout as ``name=value``, anywhere in a line, by Katib's rule: of such a name only ASCII
      letters, digits, ``_``, ``-`` and ``|`` are read, so that ``val/loss=0.5`` is a ``loss``. A last line without its
      end counts as well.
    * inf like any other number. nan is no value: a trial that reported nothing else of an objective, or nothing at all,
      has failed for the reason ``NoMetric``.
    * Reports without a step, each as one step further than the one before.

    Attributes:
        metric: Its name, as the training code reports or prints it.
        direction: Whether less or more is better; a `Direction` or its text.
        rank: The global rank whose reports count, None for all of them. What other ranks than 0 print never counts,
            for they print the same; what they give to `kfasync.report` is asked for by this.

    Raises:
        InvalidSpecError: The metric has no name, the direction is neither, or there can't be such a rank.

    Example:
        >>> Objective("accuracy", "maximize").direction
        <Direction.MAXIMIZE: 'maximize'>
    """

    metric: str = "loss"
    direction: Direction | str = Direction.MINIMIZE
    rank: int | None = 0

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric.strip():
            raise InvalidSpecError(f"an objective's metric must be a name, not {self.metric!r}")
        # Kubeflow's own enum has other members with the same values.
        text = getattr(self.direction, "value", self.direction)
        if text not in tuple(Direction):
            raise InvalidSpecError(f"objective {self.metric!r}: direction is minimize or maximize, not {text!r}")
        self.direction = Direction(text)
        if self.rank is not None:
            self.rank = whole(self.rank, f"objective {self.metric!r}: rank", least=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"metric": self.metric, "direction": str(self.direction), "rank": self.rank}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Objective:
        """The objective that `to_dict` wrote."""
        return cls(data["metric"], data["direction"], data.get("rank", 0))


@dataclass
class TrialConfig:
    """How many trials a study runs.

    Attributes:
        num_trials: Trials in all, 1 or more.
        parallel_trials: Trials at once, from 1 to ``num_trials``.
        max_failed_trials: More failures than this end the study as failed; None for no limit. Pruned trials are none.

    Raises:
        InvalidSpecError: A number is out of range; the message names the field.

    Example:
        >>> TrialConfig(num_trials=20, parallel_trials=4).max_failed_trials is None
        True
    """

    num_trials: int = 10
    parallel_trials: int = 1
    max_failed_trials: int | None = None

    def __post_init__(self) -> None:
        self.num_trials = whole(self.num_trials, "num_trials", least=1)
        self.parallel_trials = whole(self.parallel_trials, "parallel_trials", least=1)
        if self.parallel_trials > self.num_trials:
            raise InvalidSpecError(
                f"parallel_trials={self.parallel_trials} is more than num_trials={self.num_trials}: lower the first"
            )
        if self.max_failed_trials is not None:
            self.max_failed_trials = whole(self.max_failed_trials, "max_failed_trials", least=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialConfig:
        """The config that `to_dict` wrote; unknown keys (of a newer version) are ignored."""
        return cls(**{k: v for k, v in data.items() if k in cls.__dataclass_fields__})
