"""The algorithms, under Kubeflow's import path."""

from kfasync.optimizer._algorithms import ALGORITHM_REGISTRY, GridSearch, RandomSearch
from kfasync.optimizer._algorithms import Algorithm as BaseAlgorithm

__all__ = ["ALGORITHM_REGISTRY", "BaseAlgorithm", "GridSearch", "RandomSearch"]
