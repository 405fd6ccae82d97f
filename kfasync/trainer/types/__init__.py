"""Kubeflow's import path of the value types: ``from kfasync.trainer.types import types``."""
