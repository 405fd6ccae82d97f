"""Events for tests. Imported by the processes that tests start, so it must be light."""

from __future__ import annotations

from typing import Any

from kfasync.events import Event, JobSubmitted, MetricReported


def event(kind: type[Event], job: str = "demo", **fields: Any) -> Any:
    """An event of a job whose uid follows from its name."""
    return kind(**{"place": "here", "job": job, "uid": f"uid-{job}", "time": 10.0} | fields)


def submitted(job: str = "demo", **fields: Any) -> JobSubmitted:
    made: JobSubmitted = event(JobSubmitted, job, **{"spec": {"name": job}, "digest": "d"} | fields)
    return made


def metric(position: int, job: str = "demo", **fields: Any) -> MetricReported:
    made: MetricReported = event(MetricReported, job, **{"values": {"loss": 1.0}, "position": position} | fields)
    return made
