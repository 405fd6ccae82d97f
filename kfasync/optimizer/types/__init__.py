"""Kubeflow's import paths of the value types, such as ``from kfasync.optimizer.types.search_types import Search``."""
