"""The bookkeeping of a study: which trials there are, how many more may start, and when it is over. Pure.

A study is what its events add up to, so a driver that takes over knows what the one before it knew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import le
from typing import Any

from kfasync.errors import InvalidSpecError
from kfasync.events import Event, TrialEnded, TrialReported, TrialStarted
from kfasync.optimizer._objective import Direction, Objective, TrialConfig, TrialState
from kfasync.state._metrics import MetricSummary, is_printable

__all__ = ["INFRASTRUCTURE", "StopRules", "Study", "TrialRecord", "Verdict", "objective_values", "unbeaten"]

#: Reasons of a job's failure that say nothing about its function: the trial is tried again.
INFRASTRUCTURE = frozenset({"Lost", "NodeLost", "Evicted", "Preempted", "ImagePull", "StartDeadlineExceeded"})


@dataclass(frozen=True, kw_only=True)
class StopRules:
    """When a study is over before its last trial.

    Attributes:
        goal: The first objective's value that is good enough.
        no_improvement: So many complete trials in a row, none better than the best before them.
        timeout: Seconds from the start of the first trial on, of which those suspended are a part.

    Raises:
        InvalidSpecError: A number makes no sense; the message names it.
    """

    goal: float | None = None
    no_improvement: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.goal is not None and not (_is_number(self.goal) and not math.isnan(self.goal)):
            raise InvalidSpecError(f"goal must be a number, not {self.goal!r}")
        if self.no_improvement is not None and not (type(self.no_improvement) is int and self.no_improvement >= 1):
            raise InvalidSpecError(f"no_improvement must be a number of trials, 1 or more, not {self.no_improvement!r}")
        if self.timeout is not None and not (_is_number(self.timeout) and 0 < self.timeout < math.inf):
            raise InvalidSpecError(f"timeout must be a number of seconds above 0, not {self.timeout!r}")


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, as the study's events tell.

    Attributes:
        number: From 0.
        name: The name of its job; another one after a retry.
        names: The names of all its jobs, the last one included.
        parameters: Hyperparameters by name.
        state: Running, complete, failed or pruned.
        metrics: What it reported, once it has ended.
        reason: Typed reason of a failure.
        message: What a person needs to know.
        retries: How often it was started again for reasons that were not its own.
        notes: What the algorithm noted on it.
        parent: Name of the job whose checkpoint it starts with; empty for one that starts from nothing.
        started: Unix time in seconds.
        finished: Unix time in seconds, None while it runs.
    """

    number: int
    name: str
    names: tuple[str, ...] = ()
    parameters: Mapping[str, Any]
    state: TrialState = TrialState.RUNNING
    metrics: Mapping[str, MetricSummary] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    retries: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    started: float = 0.0
    finished: float | None = None


@dataclass(frozen=True)
class Verdict:
    """How a study ended: well or not, why (``AllTrials``, ``Goal``, …), and what a person needs to know."""

    complete: bool
    reason: str
    message: str


class Study:
    """Which trials there are, and what follows from that.

    Args:
        objectives: What is optimised; the first one decides where only one can.
        config: How many trials, at once and in all.
        rules: When to stop earlier.

    Example:
        >>> study = Study([Objective("loss")], TrialConfig(num_trials=3, parallel_trials=2))
        >>> study.room
        2
    """

    def __init__(self, objectives: Sequence[Objective], config: TrialConfig, rules: StopRules | None = None) -> None:
        self.objectives = tuple(objectives)
        self.config = config
        self.rules = rules or StopRules()
        self.trials: dict[int, TrialRecord] = {}
        #: Steps and values of the first objective by trial, of trials that are no jobs; a job's own reports tell its.
        self.reports: dict[int, list[tuple[float, float]]] = {}
        self._running: dict[int, TrialRecord] = {}
        self._failed = 0
        self._best: float | None = None
        self._since_best = 0
        self._told = ""

    @classmethod
    def described(cls, told: Mapping[str, Any]) -> Study:
        """The bookkeeping of a study, before anything has happened, by what its job's spec tells of it."""
        objectives = [Objective.from_dict(each) for each in told["objectives"]]
        return cls(objectives, TrialConfig.from_dict(told["trial_config"]), StopRules(**told["rules"]))

    def apply(self, event: Event) -> None:
        """Take in an event of the study's job; those that don't concern trials are passed over."""
        if isinstance(event, TrialStarted):
            old = self.trials.get(event.number)
            trial = TrialRecord(
                number=event.number,
                name=event.trial,
                names=(*(old.names if old else ()), event.trial),
                parameters=dict(event.parameters),
                retries=event.retry,
                notes=event.notes,
                parent=event.parent,
                started=old.started if old else event.time,
            )
            self.trials[event.number] = self._running[event.number] = trial
            self.reports.pop(event.number, None)  # Those of a try before this one.
        elif isinstance(event, TrialReported):
            self.reports.setdefault(event.number, []).append((event.step, event.value))
        elif isinstance(event, TrialEnded):
            self._end(event)

    def _end(self, event: TrialEnded) -> None:
        trial = self._running.pop(event.number)
        ended = self.trials[event.number] = replace(
            trial,
            state=TrialState(event.outcome),
            metrics={name: MetricSummary(*values) for name, values in event.metrics.items()},
            reason=event.reason,
            message=event.message,
            notes={**trial.notes, **event.notes},
            finished=event.time,
        )
        self._failed += ended.state is TrialState.FAILED
        if ended.state is TrialState.COMPLETE:
            self._improve(objective_values(self.objectives, ended.metrics)[self.objectives[0].metric])

    def _improve(self, value: float) -> None:
        if self._best is None or self._is_better(value, self._best):
            self._best, self._since_best = value, 0
        else:
            self._since_best += 1

    def _is_better(self, value: float, than: float) -> bool:
        return value < than if self.objectives[0].direction == Direction.MINIMIZE else value > than

    @property
    def best_value(self) -> float | None:
        """The best value of the first objective so far."""
        return self._best

    @property
    def running(self) -> tuple[TrialRecord, ...]:
        """The trials that have not ended."""
        return tuple(self._running.values())

    @property
    def next_number(self) -> int:
        """The number of the next new trial."""
        return len(self.trials)

    def stop(self, reason: str) -> None:
        """Start nothing any more: ``Timeout``, or ``Exhausted`` where an algorithm has nothing left to try."""
        self._told = self._told or reason

    @property
    def stopping(self) -> str:
        """Why nothing new is started although there could be; empty while the study goes on."""
        if self.config.max_failed_trials is not None and self._failed > self.config.max_failed_trials:
            return "MaxFailedTrials"
        goal = self.rules.goal
        if goal is not None and self._best is not None and not self._is_better(goal, self._best):
            return "Goal"
        if self.rules.no_improvement is not None and self._since_best >= self.rules.no_improvement:
            return "NoImprovement"
        return self._told

    @property
    def room(self) -> int:
        """How many trials may start now."""
        if self.stopping:
            return 0
        return min(self.config.parallel_trials - len(self._running), self.config.num_trials - len(self.trials))

    @property
    def ends_running(self) -> bool:
        """Whether the trials that run can't matter any more, and shall be stopped."""
        return self.stopping not in ("", "Exhausted")

    @property
    def verdict(self) -> Verdict | None:
        """How the study ended; None while a trial runs or may start."""
        if self._running or self.room > 0:
            return None
        why = self.stopping or "AllTrials"
        if why == "MaxFailedTrials":
            return Verdict(False, why, f"{self._failed} trials failed, the last one: {self._last_failure()}")
        if self._best is None:
            return self._fruitless(why)
        return Verdict(True, why, f"{len(self.trials)} trials, {self._failed} of them failed")

    def _fruitless(self, why: str) -> Verdict:
        if not self.trials:
            return Verdict(False, why, "it ended before any trial started")
        if any(trial.reason == "NoMetric" for trial in self.trials.values()):
            names = " and ".join(repr(objective.metric) for objective in self.objectives)
            return Verdict(False, "NoMetric", f"no trial reported {names}: {self._how_to_report()}")
        return Verdict(False, "NoCompleteTrial", f"no trial was complete; {self._last_failure()}")

    def _how_to_report(self) -> str:
        if all(is_printable(objective.metric) for objective in self.objectives):
            return "print it as name=value, or kfasync.report it"
        return "kfasync.report it; a printed name has only letters of ASCII, digits, '_', '-' and '|'"

    def _last_failure(self) -> str:
        failed = [trial for trial in self.trials.values() if trial.state is TrialState.FAILED]
        last = max(failed, key=lambda trial: trial.finished or 0.0, default=None)
        return "all were pruned" if last is None else f"trial {last.number}: {last.reason}: {last.message}"

    @property
    def best(self) -> list[TrialRecord]:
        """The complete trials that no other one beats: the first such one for one objective, else the Pareto front."""
        complete = [trial for trial in self.trials.values() if trial.state is TrialState.COMPLETE]
        values = [objective_values(self.objectives, trial.metrics) for trial in complete]
        return [complete[index] for index in unbeaten(self.objectives, values)]


def unbeaten(objectives: Sequence[Objective], values: Sequence[Mapping[str, float]]) -> list[int]:
    """Which of several results no other one beats.

    Args:
        objectives: What is optimised.
        values: A value for each objective, by metric, of each result.

    Returns:
        Their positions: the first best one for one objective, else the Pareto front, equal results included.

    Example:
        >>> unbeaten([Objective("a"), Objective("b")], [{"a": 1, "b": 3}, {"a": 2, "b": 2}, {"a": 2, "b": 4}])
        [0, 1]
    """
    signs = [1 if each.direction == Direction.MINIMIZE else -1 for each in objectives]
    losses = [[sign * each[o.metric] for sign, o in zip(signs, objectives, strict=True)] for each in values]
    front: list[int] = []
    # In this order whatever beats a result comes before it, and something of the front is as good.
    for index in sorted(range(len(losses)), key=losses.__getitem__):
        own = losses[index]
        if not any(losses[other] != own and all(map(le, losses[other], own)) for other in front):
            front.append(index)
    return front[:1] if len(objectives) == 1 else sorted(front)


def objective_values(
    objectives: Sequence[Objective], metrics: Mapping[str, MetricSummary], *, latest: bool = False
) -> dict[str, float]:
    """What a trial achieved: the best value of each objective that it reported, as Katib's default strategy takes it.

    Args:
        objectives: The objectives.
        metrics: Everything that it reported.
        latest: Take the latest value instead, that of the checkpoint.

    Returns:
        Numbers by metric; an objective that was never reported, or only as nan, is left out.
    """
    values = {}
    for objective in objectives:
        if (summary := metrics.get(objective.metric)) is not None:
            best = summary.min if objective.direction == Direction.MINIMIZE else summary.max
            value = summary.latest if latest else best
            if not math.isnan(value):
                values[objective.metric] = value
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
