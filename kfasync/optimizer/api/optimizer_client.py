"""The client, under Kubeflow's import path."""

from kfasync.optimizer._sync import OptimizerClient

__all__ = ["OptimizerClient"]
