"""What a study is asked to do, as plain values: what its driver is given, and what others read of it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from kfasync.errors import InvalidSpecError
from kfasync.jobs import CustomTrainer, TrainJobTemplate
from kfasync.optimizer._algorithms import Algorithm, RandomSearch
from kfasync.optimizer._combine import check_search
from kfasync.optimizer._objective import Objective, TrialConfig
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._stopping import EarlyStopping
from kfasync.optimizer._study import StopRules

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig

__all__ = ["STUDY_LABEL", "Order"]

#: The label of a trial's job that names its study.
STUDY_LABEL = "kfasync.dev/study"

T = TypeVar("T")

_CONVERSIONS = {"int": int, "float": float, "str": str, "bool": bool}
#: What Kubeflow's coming OptimizationJob gives a trial: its parameters, in the environment.
_ENVIRONMENT = "KUBEFLOW_TRAINER_OPT_"


@dataclass(frozen=True, kw_only=True)
class Order:
    """Everything that a driver needs.

    Attributes:
        template: The job that each trial is, but for its parameters.
        space: What is searched.
        objectives: What is optimised.
        algorithm: How.
        config: How many trials.
        stopping: When a trial is ended early.
        rules: When the study is.
        enqueued: Points to try first, in full or in part.
        backend: Where trials run.
    """

    template: TrainJobTemplate
    space: SearchSpace
    objectives: tuple[Objective, ...]
    algorithm: Algorithm
    config: TrialConfig
    stopping: EarlyStopping | None
    rules: StopRules
    enqueued: tuple[Mapping[str, Any], ...] = ()
    backend: BackendConfig | None = None

    @classmethod
    def of(
        cls,
        template: TrainJobTemplate,
        search_space: Mapping[str, Any],
        *,
        objectives: Sequence[Objective] | None,
        algorithm: Algorithm | None,
        config: TrialConfig | None,
        stopping: EarlyStopping | None,
        rules: StopRules | None,
        enqueued: Sequence[Mapping[str, Any]],
        backend: BackendConfig,
    ) -> Order:
        """Check a user's call.

        Raises:
            InvalidSpecError: Something in it can't be; says what to change, and names the parameter.
        """
        if not isinstance(template, TrainJobTemplate) or not isinstance(template.trainer, CustomTrainer):
            raise InvalidSpecError(
                f"trial_template must be a TrainJobTemplate with a CustomTrainer, whose function takes the parameters; "
                f"not {template!r:.200}"
            )
        trainer = template.trainer
        # An argument that the template has as well is what the template was tried with; a trial's own comes instead.
        searched = search_space if isinstance(search_space, Mapping) else {}
        space = SearchSpace(search_space, fixed=set(trainer.func_args or {}) - set(searched))
        space.check_function(trainer.func)
        goals = _objectives(objectives)
        chosen = RandomSearch() if algorithm is None else algorithm
        check_search(space, goals, chosen, stopping)
        limits = _instance(config, TrialConfig, "trial_config")
        return cls(
            template=template,
            space=space,
            objectives=goals,
            algorithm=chosen,
            config=limits,
            stopping=stopping,
            rules=_instance(rules, StopRules, "stop"),
            enqueued=_points(space, enqueued, limits),
            backend=backend,
        )

    def probe(self) -> CustomTrainer:
        """A trial's trainer without its values: whether it can be submitted does not depend on them."""
        return self.trainer(dict.fromkeys(self.space.parameters))

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

    def trainer(self, parameters: Mapping[str, Any]) -> CustomTrainer:
        """The template's trainer with a trial's parameters, typed as the function's annotations say."""
        template = self.template.trainer
        assert isinstance(template, CustomTrainer)
        typed = {name: self._typed(template.func, name, value) for name, value in parameters.items()}
        env = {f"{_ENVIRONMENT}{_variable(name)}": _text(value) for name, value in typed.items()}
        return dataclasses.replace(
            template, func_args={**(template.func_args or {}), **typed}, env={**(template.env or {}), **env}
        )

    def _typed(self, func: Any, name: str, value: Any) -> Any:
        try:
            annotation = inspect.signature(func).parameters[name].annotation
        except (KeyError, TypeError, ValueError):
            return value
        convert = _CONVERSIONS.get(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", ""))
        if convert is None or value is None or type(value) is convert:
            return value
        try:
            converted = convert(value)
        except (ValueError, OverflowError):
            return value
        # 2.0 is an int to whoever asked for one, and so is "2"; 2.5 is not, and goes as it is.
        exact = convert is str or converted == value or (isinstance(value, str) and convert is not bool)
        return converted if exact else value


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


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
