"""Search hyperparameters: every name of Kubeflow's ``kubeflow.optimizer``, and more. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach, homes

if TYPE_CHECKING:
    from kfasync.backends.kubernetes._config import KubernetesBackendConfig
    from kfasync.jobs._trainers import TrainJobTemplate
    from kfasync.optimizer._parameter import CategoricalSearchSpace, Condition
    from kfasync.optimizer._ranges import (
        ContinuousSearchSpace,
        Distribution,
        IntegerSearchSpace,
        LogNormalSearchSpace,
        NormalSearchSpace,
        QuantizedSearchSpace,
    )
    from kfasync.optimizer._search import Search
    from kfasync.optimizer._space import SearchSpace

__all__ = [
    "CategoricalSearchSpace",
    "Condition",
    "ContinuousSearchSpace",
    "Distribution",
    "IntegerSearchSpace",
    "KubernetesBackendConfig",
    "LogNormalSearchSpace",
    "NormalSearchSpace",
    "QuantizedSearchSpace",
    "Search",
    "SearchSpace",
    "TrainJobTemplate",
]

_NAMES = {
    "kfasync.backends.kubernetes._config": "KubernetesBackendConfig",
    "kfasync.jobs._trainers": "TrainJobTemplate",
    "kfasync.optimizer._parameter": "CategoricalSearchSpace Condition",
    "kfasync.optimizer._ranges": (
        "ContinuousSearchSpace Distribution IntegerSearchSpace LogNormalSearchSpace NormalSearchSpace "
        "QuantizedSearchSpace"
    ),
    "kfasync.optimizer._search": "Search",
    "kfasync.optimizer._space": "SearchSpace",
}

__getattr__, __dir__ = attach(__name__, homes(*_NAMES.items()))
