"""When a trial is ended early: rules over its live metrics as plain values. Pure.

Options and their defaults are those of Optuna 5's pruners. A rule sees the first objective's value at each step; steps
are whole numbers that count from 0, in whatever unit the training code reports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kfasync.errors import InvalidSpecError
from kfasync.optimizer._checks import real, whole

__all__ = ["ASHA", "RULES", "EarlyStopping", "Hyperband", "MedianStop", "Patient"]


class EarlyStopping:
    """What all rules share."""

    _name: ClassVar[str]

    @property
    def rule_name(self) -> str:
        """Its name, Katib's where Katib has it."""
        return self._name

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        raise NotImplementedError

    def _whole(self, **least: int) -> None:
        for name, bound in least.items():
            setattr(self, name, whole(getattr(self, name), f"{type(self).__name__}: {name}", least=bound))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"rule": self._name} | {k: v.to_dict() if isinstance(v, EarlyStopping) else v for k, v in fields.items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> EarlyStopping:
        """The rule that `to_dict` wrote; unknown keys (of a newer version) are ignored.

        Raises:
            InvalidSpecError: This version has no rule of that name.

        Example:
            >>> EarlyStopping.from_dict(Patient(ASHA(), patience=3).to_dict()) == Patient(ASHA(), patience=3)
            True
        """
        cls = RULES.get(data["rule"])
        if cls is None:
            raise InvalidSpecError(f"no early stopping rule is named {data['rule']!r}; known: {sorted(RULES)}")
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        fields = {key: value for key, value in data.items() if key in known}
        if isinstance(fields.get("wrapped"), Mapping):
            fields["wrapped"] = EarlyStopping.from_dict(fields["wrapped"])
        return cls(**fields)


@dataclass
class MedianStop(EarlyStopping):
    """End a trial whose best value so far is worse than the median of the completed trials at the same step.

    Attributes:
        n_startup_trials: Completed trials before which none is ended.
        n_warmup_steps: Step of a trial before which it isn't ended.
        interval_steps: Steps from one decision to the next.
        n_min_trials: Values that must be there at a step for a decision.
    """

    _name = "medianstop"

    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1

    def _check(self) -> None:
        self._whole(n_startup_trials=0, n_warmup_steps=0, interval_steps=1, n_min_trials=1)


def _resource(rule: EarlyStopping, name: str) -> None:
    if getattr(rule, name) != "auto":
        rule._whole(**{name: 1})


def _bootstrap(rule: EarlyStopping, count: int, resource: str) -> None:
    if count and getattr(rule, resource) == "auto":
        raise InvalidSpecError(f"{type(rule).__name__}: bootstrap_count needs {resource} as a number, not 'auto'")


@dataclass
class ASHA(EarlyStopping):
    """Asynchronous successive halving: at each rung only the best 1 in ``reduction_factor`` goes on.

    Attributes:
        min_resource: Steps up to the first rung; ``"auto"`` for a hundredth of the first completed trial's.
        reduction_factor: How many compete for one place.
        min_early_stopping_rate: Rungs to leave out at the start.
        bootstrap_count: Trials that must have reached a rung before one passes it.
    """

    _name = "asha"

    min_resource: int | str = "auto"
    reduction_factor: int = 4
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0

    def _check(self) -> None:
        _resource(self, "min_resource")
        self._whole(reduction_factor=2, min_early_stopping_rate=0, bootstrap_count=0)
        _bootstrap(self, self.bootstrap_count, "min_resource")


@dataclass
class Hyperband(EarlyStopping):
    """Successive halving in several brackets, from hasty to patient.

    Attributes:
        min_resource: Steps up to the first rung.
        max_resource: Steps of a whole trial; ``"auto"`` for those of the first completed one.
        reduction_factor: How many compete for one place.
        bootstrap_count: Trials that must have reached a rung before one passes it.
    """

    _name = "hyperband"

    min_resource: int = 1
    max_resource: int | str = "auto"
    reduction_factor: int = 3
    bootstrap_count: int = 0

    def _check(self) -> None:
        _resource(self, "max_resource")
        self._whole(min_resource=1, reduction_factor=2, bootstrap_count=0)
        _bootstrap(self, self.bootstrap_count, "max_resource")
        if isinstance(self.max_resource, int) and self.max_resource < self.min_resource:
            raise InvalidSpecError(f"Hyperband: max_resource={self.max_resource} is less than min_resource")


@dataclass
class Patient(EarlyStopping):
    """End a trial that hasn't improved for a while, or only then ask another rule.

    Attributes:
        wrapped: The rule to ask; None to end the trial at once.
        patience: Steps without an improvement that are forgiven.
        min_delta: What counts as an improvement.
    """

    _name = "patient"

    wrapped: EarlyStopping | None = None
    patience: int = 5
    min_delta: float = 0.0

    def _check(self) -> None:
        if self.wrapped is not None and not isinstance(self.wrapped, EarlyStopping):
            raise InvalidSpecError(f"Patient wraps another early stopping rule or None, not {self.wrapped!r}")
        if isinstance(self.wrapped, Hyperband):
            raise InvalidSpecError("Patient can't wrap Hyperband, which has to know each trial's bracket: use ASHA")
        self._whole(patience=0)
        self.min_delta = real(self.min_delta, "Patient: min_delta", least=0.0)


RULES: Mapping[str, type[EarlyStopping]] = {cls._name: cls for cls in (MedianStop, ASHA, Hyperband, Patient)}
