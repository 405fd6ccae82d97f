"""Runtimes, and what a client shows of jobs: the values that Kubeflow's users read."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from kfasync.errors import InvalidSpecError
from kfasync.jobs._trainers import TORCH_TUNE, TrainerType

__all__ = [
    "DATASET_INITIALIZER",
    "LAUNCHER",
    "MODEL_INITIALIZER",
    "NODE",
    "UNKNOWN",
    "Event",
    "Runtime",
    "RuntimeKind",
    "RuntimeTrainer",
    "Step",
    "TrainJob",
    "builtin_runtimes",
    "default_runtime",
    "load_runtimes",
]

UNKNOWN = "Unknown"
#: Names of a job's steps; the training nodes are ``node-0``, ``node-1``, …
DATASET_INITIALIZER = "dataset-initializer"
MODEL_INITIALIZER = "model-initializer"
LAUNCHER = "launcher"
NODE = "node"


class RuntimeKind(Enum):
    """Whether a runtime belongs to the whole cluster or to one namespace."""

    CLUSTER_TRAINING_RUNTIME = "ClusterTrainingRuntime"
    TRAINING_RUNTIME = "TrainingRuntime"


@dataclass
class RuntimeTrainer:
    """How a runtime runs the training code.

    Attributes:
        trainer_type: Which kind of trainer it takes.
        framework: ``torch``, ``deepspeed``, ``jax``, …
        image: Container image, for places that run containers.
        num_nodes: Nodes of a job that does not say.
        device: Kind of device that a node has.
        device_count: How many of them, as text.
        num_proc_per_node: Ranks on each node; None leaves it to the place.
        env: Variables that every job of this runtime gets.
    """

    trainer_type: TrainerType
    framework: str
    image: str
    num_nodes: int = 1
    device: str = UNKNOWN
    device_count: str = UNKNOWN
    num_proc_per_node: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    _command: tuple[str, ...] = field(default=(), init=False, repr=False)

    @property
    def command(self) -> tuple[str, ...]:
        """What starts the training code on a node."""
        return self._command

    def set_command(self, command: tuple[str, ...]) -> None:
        """Choose what starts the training code on a node."""
        self._command = tuple(command)


@dataclass
class Runtime:
    """A blueprint for jobs that a platform offers.

    Attributes:
        name: Its name.
        trainer: How it runs the training code.
        kind: Where it is defined.
        pretrained_model: The model that it brings, if any.
    """

    name: str
    trainer: RuntimeTrainer
    kind: RuntimeKind
    pretrained_model: str | None = None


@dataclass
class Step:
    """One part of a job: a training node or an initializer.

    Attributes:
        name: ``node-0``, ``dataset-initializer``, …
        status: Pending, Running, Succeeded or Failed.
        pod_name: Container, pod or process group that runs it.
        device: Kind of device it was given.
        device_count: How many, as text.
    """

    name: str
    status: str | None
    pod_name: str
    device: str = UNKNOWN
    device_count: str = UNKNOWN


@dataclass
class TrainJob:
    """A job as it was when it was asked for.

    Attributes:
        name: Its name.
        runtime: The runtime it uses.
        steps: Its parts.
        num_nodes: Training nodes.
        creation_timestamp: When it was submitted, in UTC.
        status: Created, Running, Suspended, Complete or Failed.
        reason: Why, as a typed word: Queued, Pending, OOMKilled, Error, DeadlineExceeded, Cancelled, Lost, …
        message: Why, for a person.
        labels: Its labels.
        annotations: Its annotations.
    """

    name: str
    runtime: Runtime
    steps: list[Step]
    num_nodes: int
    creation_timestamp: datetime
    status: str = UNKNOWN
    reason: str = ""
    message: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass
class Event:
    """Something that happened to a job, for a person to read.

    Attributes:
        involved_object_kind: ``TrainJob`` or ``Node`` (``Pod`` on Kubernetes).
        involved_object_name: Name of that object.
        message: What happened.
        reason: The same as a typed word.
        event_time: When, in UTC.
    """

    involved_object_kind: str
    involved_object_name: str
    message: str
    reason: str
    event_time: datetime


_COMMANDS = {
    "torch": ("torchrun",),
    "deepspeed": ("mpirun", "--hostfile", "/etc/mpi/hostfile", "python"),
    "mlx": ("mpirun", "--hostfile", "/etc/mpi/hostfile", "python"),
    TORCH_TUNE: ("tune", "run"),
}


def default_runtime() -> str:
    """The runtime of a job that names none: ``DEFAULT_TRAINING_RUNTIME``, else ``torch-distributed``."""
    return os.environ.get("DEFAULT_TRAINING_RUNTIME") or "torch-distributed"


def builtin_runtimes() -> list[Runtime]:
    """The runtimes that come with the package, with Kubeflow's names."""
    # Every submit asks: the file is parsed once, the (mutable) runtimes are made anew.
    return [_parse_runtime(name, table) for name, table in _shipped().items()]


@functools.cache
def _shipped() -> dict[str, dict[str, Any]]:
    return _read(Path(__file__).with_name("runtimes.toml"))


def _read(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    import tomllib

    with open(path, "rb") as file:
        return tomllib.load(file)


def load_runtimes(paths: Iterable[str | os.PathLike[str]]) -> list[Runtime]:
    """Read runtime definitions from TOML files; a later definition of a name replaces an earlier one.

    A table ``[NAME]`` has ``framework`` and, where they differ from the usual, ``image``, ``command``, ``num_nodes``,
    ``num_proc_per_node``, ``pretrained_model`` and ``env``.

    Args:
        paths: The files.

    Returns:
        The runtimes, in the order of their first definition.

    Raises:
        InvalidSpecError: A file can't be read or a definition not be understood; names the file.
    """
    found: dict[str, Runtime] = {}
    for path in paths:
        try:
            for name, table in _read(path).items():
                found[name] = _parse_runtime(name, table)
        except (OSError, TypeError, ValueError) as error:  # ValueError: no TOML, or no UTF-8, too.
            raise InvalidSpecError(f"runtime definitions {os.fspath(path)!r}: {error}") from error
    return list(found.values())


def _parse_runtime(name: str, table: dict[str, Any]) -> Runtime:
    if not isinstance(table, dict) or not isinstance(table.get("framework"), str):
        raise ValueError(f'[{name}] needs framework = "…"')
    fields = dict(table)
    framework = fields.pop("framework")
    command = fields.pop("command", None)
    model = fields.pop("pretrained_model", None)
    trainer = RuntimeTrainer(
        trainer_type=TrainerType.BUILTIN_TRAINER if framework == TORCH_TUNE else TrainerType.CUSTOM_TRAINER,
        framework=framework,
        image=fields.pop("image", ""),
        **fields,
    )
    trainer.set_command(tuple(command) if command is not None else _COMMANDS.get(framework, ("python",)))
    return Runtime(name=name, trainer=trainer, kind=RuntimeKind.CLUSTER_TRAINING_RUNTIME, pretrained_model=model)
