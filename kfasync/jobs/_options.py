"""Options of a job: callables ``(job_spec, trainer, backend)`` that write into a TrainJob-shaped dict.

``job_spec`` has Kubernetes' form: ``{"metadata": {"name", "labels", "annotations"}, "spec": {"activeDeadlineSeconds",
"trainer": {"command", "args"}, "runtimePatches": […]}}``, with only the keys that were given. Any callable of this form
is an option. What a place can't carry out, it refuses at submit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kfasync.errors import InvalidSpecError
from kfasync.jobs._trainers import BuiltinTrainer, CustomTrainer, CustomTrainerContainer

if TYPE_CHECKING:
    from kfasync.jobs._patches import TrainingRuntimeSpecPatch

__all__ = [
    "ActiveDeadlineSeconds",
    "Annotations",
    "Labels",
    "Name",
    "Option",
    "RuntimePatch",
    "Trainer",
    "TrainerArgs",
    "TrainerCommand",
]

Trainer = CustomTrainer | CustomTrainerContainer | BuiltinTrainer


class Option(Protocol):
    """What ``options=[…]`` takes: any callable that writes into ``job_spec``."""

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any, /) -> object: ...


@dataclass
class Name:
    """Choose the job's name.

    Args:
        name: At most 63 lower-case letters, digits and '-', starting with a letter.
    """

    name: str

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any) -> None:
        job_spec.setdefault("metadata", {})["name"] = self.name


@dataclass
class Labels:
    """Add labels to the job; kept on every backend.

    Args:
        labels: The labels.
    """

    labels: dict[str, str]

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any) -> None:
        _merge(job_spec, "labels", self.labels)


@dataclass
class Annotations:
    """Add annotations to the job; kept on every backend.

    Args:
        annotations: The annotations.
    """

    annotations: dict[str, str]

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any) -> None:
        _merge(job_spec, "annotations", self.annotations)


@dataclass
class ActiveDeadlineSeconds:
    """Fail the job with DeadlineExceeded when it has been active for so long; works on every backend.

    Args:
        seconds: Whole seconds since it was created or resumed, at least 1.
    """

    seconds: int

    def __post_init__(self) -> None:
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int) or self.seconds < 1:
            raise InvalidSpecError(f"ActiveDeadlineSeconds takes whole seconds, at least 1, not {self.seconds!r}")

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any) -> None:
        job_spec.setdefault("spec", {})["activeDeadlineSeconds"] = self.seconds


@dataclass
class TrainerCommand:
    """Replace the command of the training container; only for `CustomTrainerContainer`.

    Args:
        command: The program and its first arguments.
    """

    command: list[str]

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any) -> None:
        _container_only(self, trainer)
        job_spec.setdefault("spec", {}).setdefault("trainer", {})["command"] = self.command


@dataclass
class TrainerArgs:
    """Replace the arguments of the training container; only for `CustomTrainerContainer`.

    Args:
        args: The arguments.
    """

    args: list[str]

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any) -> None:
        _container_only(self, trainer)
        job_spec.setdefault("spec", {}).setdefault("trainer", {})["args"] = self.args


#: Whose patches they are; the API keeps one list of patches for each manager.
MANAGER = "trainer.kubeflow.org/kubeflow-sdk"


@dataclass
class RuntimePatch:
    """Patch the runtime's JobSet for this job; Kubernetes only.

    Args:
        training_runtime_spec: The patches.
    """

    training_runtime_spec: TrainingRuntimeSpecPatch | None = None

    @property
    def manager(self) -> str:
        """The patch's manager, the same as that of the Kubeflow SDK."""
        return MANAGER

    def __call__(self, job_spec: dict[str, Any], trainer: Trainer | None, backend: Any) -> None:
        from kfasync.jobs._patches import to_api

        patch = {"manager": self.manager, **to_api(self)}
        job_spec.setdefault("spec", {}).setdefault("runtimePatches", []).append(patch)


def _merge(job_spec: dict[str, Any], what: str, values: Mapping[str, str]) -> None:
    if not isinstance(values, Mapping):
        raise InvalidSpecError(f"{what} must be a dict of strings, not {values!r}")
    job_spec.setdefault("metadata", {}).setdefault(what, {}).update(values)


def _container_only(option: object, trainer: Trainer | None) -> None:
    if trainer is not None and not isinstance(trainer, CustomTrainerContainer):
        raise InvalidSpecError(
            f"{type(option).__name__} is for CustomTrainerContainer: a {type(trainer).__name__} brings its own command"
        )
