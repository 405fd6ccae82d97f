"""Search hyperparameters: every name of Kubeflow's ``kubeflow.optimizer``, and more. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach, homes

if TYPE_CHECKING:
    from kfasync.backends.kubernetes._config import KubernetesBackendConfig
    from kfasync.jobs._trainers import TrainJobTemplate
    from kfasync.optimizer._algorithms import (
        NSGAII,
        PBT,
        TPE,
        Algorithm,
        CmaEs,
        GaussianProcess,
        GridSearch,
        RandomSearch,
        Sobol,
    )
    from kfasync.optimizer._asked import AskedTrial
    from kfasync.optimizer._client import AsyncOptimizerClient
    from kfasync.optimizer._objective import Direction, Objective, TrialConfig
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
    from kfasync.optimizer._stopping import ASHA, EarlyStopping, Hyperband, MedianStop, Patient
    from kfasync.optimizer._storage import export_study, optuna_storage
    from kfasync.optimizer._study import StopRules
    from kfasync.optimizer._sync import AskTellStudy, OptimizerClient, StudyHandle
    from kfasync.optimizer._views import Metric, OptimizationJob, Result, Trial
    from kfasync.worker import get_hyperparameters, report_metrics

__all__ = [
    "ASHA",
    "NSGAII",
    "PBT",
    "TPE",
    "Algorithm",
    "AskTellStudy",
    "AskedTrial",
    "AsyncOptimizerClient",
    "CategoricalSearchSpace",
    "CmaEs",
    "Condition",
    "ContinuousSearchSpace",
    "Direction",
    "Distribution",
    "EarlyStopping",
    "GaussianProcess",
    "GridSearch",
    "Hyperband",
    "IntegerSearchSpace",
    "KubernetesBackendConfig",
    "LogNormalSearchSpace",
    "MedianStop",
    "Metric",
    "NormalSearchSpace",
    "Objective",
    "OptimizationJob",
    "OptimizerClient",
    "Patient",
    "QuantizedSearchSpace",
    "RandomSearch",
    "Result",
    "Search",
    "SearchSpace",
    "Sobol",
    "StopRules",
    "StudyHandle",
    "TrainJobTemplate",
    "Trial",
    "TrialConfig",
    "export_study",
    "get_hyperparameters",
    "optuna_storage",
    "report_metrics",
]

_NAMES = {
    "kfasync.backends.kubernetes._config": "KubernetesBackendConfig",
    "kfasync.jobs._trainers": "TrainJobTemplate",
    "kfasync.optimizer._algorithms": "NSGAII PBT TPE Algorithm CmaEs GaussianProcess GridSearch RandomSearch Sobol",
    "kfasync.optimizer._objective": "Direction Objective TrialConfig",
    "kfasync.optimizer._parameter": "CategoricalSearchSpace Condition",
    "kfasync.optimizer._ranges": (
        "ContinuousSearchSpace Distribution IntegerSearchSpace LogNormalSearchSpace NormalSearchSpace "
        "QuantizedSearchSpace"
    ),
    "kfasync.optimizer._asked": "AskedTrial",
    "kfasync.optimizer._client": "AsyncOptimizerClient",
    "kfasync.optimizer._storage": "export_study optuna_storage",
    "kfasync.optimizer._study": "StopRules",
    "kfasync.optimizer._sync": "AskTellStudy OptimizerClient StudyHandle",
    "kfasync.optimizer._views": "Metric OptimizationJob Result Trial",
    "kfasync.optimizer._search": "Search",
    "kfasync.optimizer._space": "SearchSpace",
    "kfasync.optimizer._stopping": "ASHA EarlyStopping Hyperband MedianStop Patient",
    "kfasync.worker": "get_hyperparameters report_metrics",
}

__getattr__, __dir__ = attach(__name__, homes(*_NAMES.items()))
