"""What a study is and finds, under Kubeflow's import path."""

from kfasync.optimizer._objective import Direction, Objective, TrialConfig
from kfasync.optimizer._views import Metric, OptimizationJob, Result, Trial

__all__ = ["Direction", "Metric", "Objective", "OptimizationJob", "Result", "Trial", "TrialConfig"]
