"""What a study is to try, as plain values: checked before anything runs, and read by whoever looks at it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Required, Self, TypedDict, TypeVar

from kfasync.errors import InvalidSpecError
from kfasync.optimizer._algorithms import Algorithm, RandomSearch
from kfasync.optimizer._combine import check_population, check_search
from kfasync.optimizer._objective import Objective, TrialConfig
from kfasync.optimizer._parameter import ParameterSpec
from kfasync.optimizer._sampler import AskTell
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._stopping import EarlyStopping
from kfasync.optimizer._study import StopRules, Study, objective_values
from kfasync.state._metrics import MetricSummary

__all__ = ["StudyKeywords", "StudyPlan"]

T = TypeVar("T")


class StudyKeywords(TypedDict, total=False):
    """What says how a study is done; `AsyncOptimizerClient.optimize` tells what each means."""

    search_space: Required[Mapping[str, ParameterSpec]]
    trial_config: TrialConfig | None
    objectives: Sequence[Objective] | None
    algorithm: Algorithm | None
    name: str | None
    early_stopping: EarlyStopping | None
    stop: StopRules | None
    enqueue: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What is searched, how, and for how long.

    Attributes:
        space: What is searched.
        objectives: What is optimised.
        algorithm: How.
        config: How many trials.
        stopping: When a trial is ended early.
        rules: When the study is.
        enqueued: Points to try first, in full or in part.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    algorithm: Algorithm
    config: TrialConfig
    stopping: EarlyStopping | None
    rules: StopRules
    enqueued: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def checked(
        cls,
        search_space: Mapping[str, Any],
        *,
        fixed: Collection[str] = (),
        objectives: Sequence[Objective] | None,
        algorithm: Algorithm | None,
        config: TrialConfig | None,
        stopping: EarlyStopping | None,
        rules: StopRules | None,
        enqueued: Sequence[Mapping[str, Any]],
    ) -> Self:
        """Check a user's call.

        Args:
            search_space: What `Search` gives, by parameter.
            fixed: Names that have a value already.
            objectives: By default the metric ``loss``, to be small.
            algorithm: By default at random.
            config: By default ten trials, one at a time.
            stopping: When a trial is ended early.
            rules: When the study is.
            enqueued: Points to try first.

        Raises:
            InvalidSpecError: Something in it can't be; says what to change, and names the parameter.
        """
        space = SearchSpace(search_space, fixed=set(fixed))
        goals = _objectives(objectives)
        chosen = RandomSearch() if algorithm is None else algorithm
        check_search(space, goals, chosen, stopping)
        limits = _instance(config, TrialConfig, "trial_config")
        points = _points(space, enqueued, limits)
        check_population(chosen, limits, len(points))
        return cls(
            space=space,
            objectives=goals,
            algorithm=chosen,
            config=limits,
            stopping=stopping,
            rules=_instance(rules, StopRules, "stop"),
            enqueued=points,
        )

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields, for a plan that is made of it."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(StudyPlan)}

    def study(self) -> Study:
        """Its bookkeeping, before anything has happened."""
        return Study(self.objectives, self.config, self.rules)

    def given(self, number: int) -> Mapping[str, Any] | None:
        """The point that was asked for as a trial of this number, in full or in part."""
        return self.enqueued[number] if number < len(self.enqueued) else None

    def learned(self, metrics: Mapping[str, MetricSummary]) -> dict[str, float]:
        """What the algorithm learns of everything that a trial reported."""
        return objective_values(self.objectives, metrics, latest=self.algorithm.hands_on)

    def recall(self, sampler: AskTell, study: Study, reports: Mapping[int, Sequence[tuple[float, float]]]) -> None:
        """Tell a new sampler of the trials that there are.

        Args:
            sampler: The sampler.
            study: What is known.
            reports: Steps and values of the first objective, by trial.
        """
        for trial in study.trials.values():
            sampler.add(
                trial.number,
                trial.parameters,
                trial.state,
                self.learned(trial.metrics),
                reports=reports.get(trial.number, ()),
                notes=trial.notes,
            )

    def describe(self) -> dict[str, Any]:
        """Plain JSON values, for whoever looks at the study."""
        return {
            "search_space": self.space.to_dict(),
            "objectives": [objective.to_dict() for objective in self.objectives],
            "algorithm": self.algorithm.to_dict(),
            "trial_config": self.config.to_dict(),
            "stopping": None if self.stopping is None else self.stopping.to_dict(),
            "rules": dataclasses.asdict(self.rules),
        }


def _instance(given: Any, kind: type[T], what: str) -> T:
    if given is None:
        return kind()
    if not isinstance(given, kind):
        raise InvalidSpecError(f"{what} must be a {kind.__name__}, not {given!r:.200}")
    return given


def _objectives(given: Sequence[Objective] | None) -> tuple[Objective, ...]:
    if given is None:
        return (Objective(),)
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(o, Objective) for o in given):
        raise InvalidSpecError(f"objectives must be a list of Objective, not {given!r:.200}")
    return tuple(given)


def _points(space: SearchSpace, given: Sequence[Mapping[str, Any]], config: TrialConfig) -> tuple[dict[str, Any], ...]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise InvalidSpecError(f"enqueue must be a list of points, not {given!r:.200}")
    if len(given) > config.num_trials:
        raise InvalidSpecError(f"enqueue has {len(given)} points, more than num_trials={config.num_trials}")
    return tuple(space.complete(point) for point in given)
