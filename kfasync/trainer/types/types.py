"""The value types, under Kubeflow's import path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach, homes

if TYPE_CHECKING:
    from kfasync.jobs._initializers import (
        BaseInitializer,
        DataCacheInitializer,
        HuggingFaceDatasetInitializer,
        HuggingFaceModelInitializer,
        Initializer,
        S3DatasetInitializer,
        S3ModelInitializer,
    )
    from kfasync.jobs._runtimes import Event, Runtime, RuntimeKind, RuntimeTrainer, Step, TrainJob
    from kfasync.jobs._trainers import (
        TORCH_TUNE,
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
    "TORCH_TUNE",
    "BaseInitializer",
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
    "LoraConfig",
    "Loss",
    "Runtime",
    "RuntimeKind",
    "RuntimeTrainer",
    "S3DatasetInitializer",
    "S3ModelInitializer",
    "Step",
    "TorchTuneConfig",
    "TorchTuneInstructDataset",
    "TrainJob",
    "TrainJobTemplate",
    "TrainerType",
]

_NAMES = {
    "kfasync.jobs._initializers": (
        "BaseInitializer DataCacheInitializer HuggingFaceDatasetInitializer HuggingFaceModelInitializer "
        "Initializer S3DatasetInitializer S3ModelInitializer"
    ),
    "kfasync.jobs._runtimes": "Event Runtime RuntimeKind RuntimeTrainer Step TrainJob",
    "kfasync.jobs._trainers": (
        "BuiltinTrainer CustomTrainer CustomTrainerContainer DataFormat DataType LoraConfig Loss TORCH_TUNE "
        "TorchTuneConfig TorchTuneInstructDataset TrainJobTemplate TrainerType"
    ),
}

__getattr__, __dir__ = attach(__name__, homes(*_NAMES.items()))
