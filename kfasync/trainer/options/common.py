"""Options of every place, under Kubeflow's import path."""

from kfasync.jobs._options import Name

__all__ = ["Name"]
