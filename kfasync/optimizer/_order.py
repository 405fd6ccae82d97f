"""What a driver is given: what a study is to try, on which jobs, where."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfasync.errors import InvalidSpecError
from kfasync.jobs import CustomTrainer, CustomTrainerContainer, TrainJobTemplate
from kfasync.optimizer._plan import StudyPlan
from kfasync.worker import PARAMETERS, PREFIX

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig

__all__ = ["STUDY_LABEL", "Order"]

#: The label of a trial's job that names its study.
STUDY_LABEL = "kfasync.dev/study"

_CONVERSIONS = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True, kw_only=True)
class Order(StudyPlan):
    """Everything that a driver needs.

    Attributes:
        template: The job that each trial is, but for its parameters.
        backend: Where trials run.
    """

    template: TrainJobTemplate
    backend: BackendConfig

    @classmethod
    def of(
        cls, template: TrainJobTemplate, search_space: Mapping[str, Any], *, backend: BackendConfig, **plan: Any
    ) -> Order:
        """Check a user's call.

        Args:
            template: The job that each trial is; a function takes the parameters by name, a script or an image reads
                them by `kfasync.get_hyperparameters` or from the environment.
            search_space: What `Search` gives, by parameter.
            backend: Where trials run.
            plan: As for `StudyPlan.checked`.

        Raises:
            InvalidSpecError: Something in it can't be; says what to change, and names the parameter.
        """
        trainer = getattr(template, "trainer", None)
        if not isinstance(template, TrainJobTemplate) or not isinstance(
            trainer, CustomTrainer | CustomTrainerContainer
        ):
            raise InvalidSpecError(
                "trial_template must be a TrainJobTemplate with a CustomTrainer, whose function takes the parameters, "
                f"or a CustomTrainerContainer; not {template!r:.200}"
            )
        # An argument that the template has as well is what the template was tried with; a trial's own comes instead.
        searched = search_space if isinstance(search_space, Mapping) else {}
        fixed = set(getattr(trainer, "func_args", None) or {}) - set(searched)
        made = StudyPlan.checked(search_space, fixed=fixed, **plan)
        if isinstance(trainer, CustomTrainer):
            if isinstance(trainer.func, str | os.PathLike):
                # A driver, which imports this module too, has no use for it before its first trial.
                from kfasync.payload import from_script

                # Read now: what happens to the file later must not make trials differ.
                script: Any = from_script(trainer.func)
                template = dataclasses.replace(template, trainer=dataclasses.replace(trainer, func=script))
            elif callable(trainer.func):
                made.space.check_function(trainer.func)
        return cls(template=template, backend=backend, **made.fields)

    @property
    def what(self) -> str:
        """What a person calls the code of a trial."""
        trainer = self.template.trainer
        if isinstance(trainer, CustomTrainerContainer):
            return trainer.image
        # A script's payload has a name.
        return getattr(trainer.func, "__qualname__", "") or getattr(trainer.func, "name", "")

    def probe(self) -> CustomTrainer | CustomTrainerContainer:
        """A trial's trainer without its values: whether it can be submitted does not depend on them."""
        return self.trainer(dict.fromkeys(self.space.parameters))

    def trainer(self, parameters: Mapping[str, Any]) -> CustomTrainer | CustomTrainerContainer:
        """The template's trainer with a trial's parameters, typed as the function's annotations say."""
        template = self.template.trainer
        func = template.func if isinstance(template, CustomTrainer) and callable(template.func) else None
        typed = {name: self._typed(func, name, value) for name, value in parameters.items()}
        env = {**(template.env or {}), PARAMETERS: json.dumps(typed)}
        env |= {f"{PREFIX}{_variable(name)}": _text(value) for name, value in typed.items()}
        if isinstance(template, CustomTrainer) and func is not None:
            return dataclasses.replace(template, func_args={**(template.func_args or {}), **typed}, env=env)
        return dataclasses.replace(template, env=env)

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


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
