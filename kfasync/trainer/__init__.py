"""Train models: the clients, and every name of Kubeflow's ``kubeflow.trainer``. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach, homes

if TYPE_CHECKING:
    from kfasync.backends.container._config import ContainerBackendConfig, TrainingRuntimeSource
    from kfasync.backends.kubernetes._config import KubernetesBackendConfig
    from kfasync.backends.local._config import LocalProcessBackendConfig
    from kfasync.jobs._initializers import (
        DATASET_PATH,
        MODEL_PATH,
        DataCacheInitializer,
        HuggingFaceDatasetInitializer,
        HuggingFaceModelInitializer,
        Initializer,
        S3DatasetInitializer,
        S3ModelInitializer,
    )
    from kfasync.jobs._runtimes import Event, Runtime, RuntimeKind, RuntimeTrainer, Step, TrainJob
    from kfasync.jobs._spec import RestartPolicy, SecretRef
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
    from kfasync.trainer._client import AsyncTrainerClient
    from kfasync.trainer._sync import JobHandle, TrainerClient
    from kfasync.trainer._tpu import get_tpu_num_nodes
    from kfasync.worker import get_hyperparameters, report_metrics, update_trainjob_status

__all__ = [
    "DATASET_PATH",
    "MODEL_PATH",
    "AsyncTrainerClient",
    "BuiltinTrainer",
    "ContainerBackendConfig",
    "CustomTrainer",
    "CustomTrainerContainer",
    "DataCacheInitializer",
    "DataFormat",
    "DataType",
    "Event",
    "HuggingFaceDatasetInitializer",
    "HuggingFaceModelInitializer",
    "Initializer",
    "JobHandle",
    "KubernetesBackendConfig",
    "LocalProcessBackendConfig",
    "LoraConfig",
    "Loss",
    "RestartPolicy",
    "Runtime",
    "RuntimeKind",
    "RuntimeTrainer",
    "S3DatasetInitializer",
    "S3ModelInitializer",
    "SecretRef",
    "Step",
    "TorchTuneConfig",
    "TorchTuneInstructDataset",
    "TrainJob",
    "TrainJobTemplate",
    "TrainerClient",
    "TrainerType",
    "TrainingRuntimeSource",
    "get_hyperparameters",
    "get_tpu_num_nodes",
    "report_metrics",
    "update_trainjob_status",
]

_NAMES = {
    "kfasync.backends.container._config": "ContainerBackendConfig TrainingRuntimeSource",
    "kfasync.backends.kubernetes._config": "KubernetesBackendConfig",
    "kfasync.backends.local._config": "LocalProcessBackendConfig",
    "kfasync.jobs._initializers": (
        "DATASET_PATH DataCacheInitializer HuggingFaceDatasetInitializer HuggingFaceModelInitializer "
        "Initializer MODEL_PATH S3DatasetInitializer S3ModelInitializer"
    ),
    "kfasync.jobs._runtimes": "Event Runtime RuntimeKind RuntimeTrainer Step TrainJob",
    "kfasync.jobs._spec": "RestartPolicy SecretRef",
    "kfasync.jobs._trainers": (
        "BuiltinTrainer CustomTrainer CustomTrainerContainer DataFormat DataType LoraConfig Loss "
        "TorchTuneConfig TorchTuneInstructDataset TrainJobTemplate TrainerType"
    ),
    "kfasync.trainer._client": "AsyncTrainerClient",
    "kfasync.trainer._sync": "JobHandle TrainerClient",
    "kfasync.trainer._tpu": "get_tpu_num_nodes",
    "kfasync.worker": "get_hyperparameters report_metrics update_trainjob_status",
}

__getattr__, __dir__ = attach(__name__, homes(*_NAMES.items()))
