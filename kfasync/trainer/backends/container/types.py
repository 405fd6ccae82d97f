"""The config for containers, under Kubeflow's import path."""

from kfasync.backends.container._config import ContainerBackendConfig, TrainingRuntimeSource

__all__ = ["ContainerBackendConfig", "TrainingRuntimeSource"]
