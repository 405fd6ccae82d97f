"""A study's trials as a pandas data frame. pandas is loaded when one is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kfasync.errors import MissingExtraError
from kfasync.optimizer._parameter import CategoricalSearchSpace, ParameterSpec
from kfasync.optimizer._ranges import IntegerSearchSpace

if TYPE_CHECKING:
    from pandas import DataFrame

    from kfasync.optimizer._views import OptimizationJob

__all__ = ["frame_of"]


def frame_of(job: OptimizationJob) -> DataFrame:
    """What `OptimizationJob.to_dataframe` gives."""
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise MissingExtraError("a data frame of a study's trials", "plot") from error
    columns: dict[str, Any] = {
        name: pd.Series([getattr(trial, name) for trial in job.trials], dtype="int64" if name == "number" else None)
        for name in ("number", "name", "status", "reason")
    }
    for name in ("started", "finished"):
        moments = [getattr(trial, name) for trial in job.trials]
        columns[name] = pd.to_datetime(pd.Series(moments, dtype="object"), utc=True)
    columns["duration"] = columns["finished"] - columns["started"]
    for name, values in _achieved(job).items():
        columns[name] = pd.Series(values, dtype="float64")
    for name, spec in job.search_space.items():
        given = [trial.parameters.get(name) for trial in job.trials]
        columns[f"params.{name}"] = pd.Series(given, dtype=_dtype(spec, given))
    for name, values in _metrics(job).items():
        columns[name] = pd.Series(values, dtype="float64")
    return pd.DataFrame(columns)


def _dtype(spec: ParameterSpec, values: list[Any]) -> str | None:
    """What keeps values as they are; None lets pandas choose, which makes floats of ints beside a missing one."""
    if None not in values:
        return None
    if isinstance(spec, CategoricalSearchSpace):
        return "object"
    return "Int64" if isinstance(spec, IntegerSearchSpace) else "float64"


def _achieved(job: OptimizationJob) -> dict[str, list[float]]:
    achieved = [job.achieved(trial) for trial in job.trials]
    metrics = [objective.metric for objective in job.objectives]
    return {f"objective.{name}": [values.get(name, math.nan) for values in achieved] for name in metrics}


def _metrics(job: OptimizationJob) -> dict[str, list[float]]:
    told = [{metric.name: metric for metric in trial.metrics} for trial in job.trials]
    return {
        f"metrics.{name}.{part}": [getattr(metrics.get(name), part, math.nan) for metrics in told]
        for name in dict.fromkeys(name for metrics in told for name in metrics)
        for part in ("latest", "min", "max")
    }
