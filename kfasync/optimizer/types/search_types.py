"""Search spaces, under Kubeflow's import path."""

from kfasync.optimizer._parameter import CategoricalSearchSpace
from kfasync.optimizer._ranges import ContinuousSearchSpace, Distribution
from kfasync.optimizer._search import Search

__all__ = ["CategoricalSearchSpace", "ContinuousSearchSpace", "Distribution", "Search"]
