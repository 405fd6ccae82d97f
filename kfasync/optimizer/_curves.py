"""What a trial reported on its way: values by step. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from kfasync.state._metrics import Reported

__all__ = ["Curve", "Curves", "curves_of"]

#: Steps and values by metric, the steps ascending.
Curves = dict[str, list[tuple[float, float]]]


class Curve:
    """Steps and values of one metric, from a job's reports in order; a report without a step is one further.

    Args:
        metric: Its name.
        rank: The rank whose reports count, None for all of them.
    """

    def __init__(self, metric: str, rank: int | None = 0) -> None:
        self._metric = metric
        self._rank = rank
        self._count = 0

    def point(self, step: float | None, values: Mapping[str, float], rank: int) -> tuple[float, float] | None:
        """What a report of a rank says of the metric, if it does and counts."""
        if self._metric not in values or self._rank not in (None, rank):
            return None
        at = self._count if step is None else step
        self._count += 1
        return float(at), float(values[self._metric])


def curves_of(reports: Iterable[Reported], ranks: Mapping[str, int | None] | None = None) -> dict[str, Curves]:
    """The curves of some jobs.

    Args:
        reports: What they reported, each job's reports in order. Of several values at a step the last one counts, so a
            job that started again is one curve; a step that is no finite number is passed over.
        ranks: For a metric the rank whose reports count, None for all of them; rank 0 for a metric that is not there.

    Returns:
        By job and metric; a job that reported nothing is left out.

    Example:
        >>> curves_of([Reported("a", None, {"loss": 3.0}), Reported("a", None, {"loss": 2.0})])
        {'a': {'loss': [(0.0, 3.0), (1.0, 2.0)]}}
    """
    found: dict[str, dict[str, tuple[Curve, dict[float, float]]]] = {}
    counting = ranks or {}
    for job, step, values, rank in reports:
        metrics = found.setdefault(job, {})
        for metric in values:
            curve, points = metrics.setdefault(metric, (Curve(metric, counting.get(metric, 0)), {}))
            point = curve.point(step, values, rank)
            if point is not None and math.isfinite(point[0]):
                points[point[0]] = point[1]
    return {
        job: {metric: sorted(points.items()) for metric, (_, points) in metrics.items()}
        for job, metrics in found.items()
    }
