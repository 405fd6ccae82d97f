"""kfasync: async-first orchestration of training jobs on local processes, containers and Kubernetes.

Names are imported on first use, so that ``import kfasync`` inside a training function costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfasync.jobs import CustomTrainer, RestartPolicy, SecretRef
    from kfasync.trainer import AsyncTrainerClient, TrainerClient
    from kfasync.worker import checkpoint_dir, get_hyperparameters, progress, report, report_metrics, should_stop

__version__ = "0.1.0"

__all__ = [
    "AsyncTrainerClient",
    "CustomTrainer",
    "RestartPolicy",
    "SecretRef",
    "TrainerClient",
    "__version__",
    "checkpoint_dir",
    "get_hyperparameters",
    "progress",
    "report",
    "report_metrics",
    "should_stop",
]

# This file travels into containers with nothing but the worker: it imports none of its neighbours, not even `_lazy`.
_HOMES = {
    "AsyncTrainerClient": "kfasync.trainer",
    "CustomTrainer": "kfasync.jobs",
    "RestartPolicy": "kfasync.jobs",
    "SecretRef": "kfasync.jobs",
    "TrainerClient": "kfasync.trainer",
    "checkpoint_dir": "kfasync.worker",
    "get_hyperparameters": "kfasync.worker",
    "progress": "kfasync.worker",
    "report": "kfasync.worker",
    "report_metrics": "kfasync.worker",
    "should_stop": "kfasync.worker",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kfasync' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
