"""The client, under Kubeflow's import path."""

from kfasync.trainer._sync import TrainerClient

__all__ = ["TrainerClient"]
