"""The values that every layer shares: the spec of a job, and what Kubeflow's users write and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach, homes
from kfasync.jobs._spec import JobSpec, Resources, RestartPolicy, SecretRef, check_name, new_name, parse_quantity

if TYPE_CHECKING:
    from kfasync.jobs._initializers import (
        DataCacheInitializer,
        HuggingFaceDatasetInitializer,
        HuggingFaceModelInitializer,
        Initializer,
        S3DatasetInitializer,
        S3ModelInitializer,
    )
    from kfasync.jobs._options import (
        ActiveDeadlineSeconds,
        Annotations,
        Labels,
        Name,
        Option,
        RuntimePatch,
        Trainer,
        TrainerArgs,
        TrainerCommand,
    )
    from kfasync.jobs._runtimes import (
        Event,
        Runtime,
        RuntimeKind,
        RuntimeTrainer,
        Step,
        TrainJob,
        builtin_runtimes,
        default_runtime,
        load_runtimes,
    )
    from kfasync.jobs._trainers import (
        BuiltinTrainer,
        CustomTrainer,
        CustomTrainerContainer,
        DataFormat,
        DataType,
        LoraConfig,
        Loss,
        TorchTuneConfig,
        TorchTuneInstructDataset,
        TrainerType,
        TrainJobTemplate,
    )

__all__ = [
    "ActiveDeadlineSeconds",
    "Annotations",
    "BuiltinTrainer",
    "CustomTrainer",
    "CustomTrainerContainer",
    "DataCacheInitializer",
    "DataFormat",
    "DataType",
    "Event",
    "HuggingFaceDatasetInitializer",
    "HuggingFaceModelInitializer",
    "Initializer",
    "JobSpec",
    "Labels",
    "LoraConfig",
    "Loss",
    "Name",
    "Option",
    "Resources",
    "RestartPolicy",
    "Runtime",
    "RuntimeKind",
    "RuntimePatch",
    "RuntimeTrainer",
    "S3DatasetInitializer",
    "S3ModelInitializer",
    "SecretRef",
    "Step",
    "TorchTuneConfig",
    "TorchTuneInstructDataset",
    "TrainJob",
    "TrainJobTemplate",
    "Trainer",
    "TrainerArgs",
    "TrainerCommand",
    "TrainerType",
    "builtin_runtimes",
    "check_name",
    "default_runtime",
    "load_runtimes",
    "new_name",
    "parse_quantity",
]

# The spec is what the supervisor and the engine need; the rest costs 20 ms of dataclasses and comes on first use.
_NAMES = {
    "kfasync.jobs._trainers": (
        "BuiltinTrainer CustomTrainer CustomTrainerContainer DataFormat DataType LoraConfig Loss "
        "TorchTuneConfig TorchTuneInstructDataset TrainJobTemplate TrainerType"
    ),
    "kfasync.jobs._initializers": (
        "DataCacheInitializer HuggingFaceDatasetInitializer HuggingFaceModelInitializer Initializer "
        "S3DatasetInitializer S3ModelInitializer"
    ),
    "kfasync.jobs._runtimes": (
        "Event Runtime RuntimeKind RuntimeTrainer Step TrainJob builtin_runtimes default_runtime load_runtimes"
    ),
    "kfasync.jobs._options": (
        "ActiveDeadlineSeconds Annotations Labels Name Option RuntimePatch Trainer TrainerArgs TrainerCommand"
    ),
}

__getattr__, __dir__ = attach(__name__, homes(*_NAMES.items()))
