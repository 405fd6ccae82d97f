"""Kubeflow's update_trainjob_status, for code that was written for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["update_trainjob_status"]

_METRICS_LIMIT = 256  # what the TrainJob's status holds
_PATIENCE = 5.0  # seconds; a controller that does not answer must not hold up the training


def update_trainjob_status(
    progress_percent: int | None = None,
    estimated_remaining_seconds: int | None = None,
    metrics: Mapping[str, float | int | str] | None = None,
) -> bool:
    """Report training progress by Kubeflow's protocol; never raises.

    Args:
        progress_percent: 0 to 100; clipped.
        estimated_remaining_seconds: Seconds to the end.
        metrics: Values by name, at most 256 of them.

    Returns:
        Whether the report was accepted: False outside of a job.
    """
    import http.client

    try:
        return _post(progress_percent, estimated_remaining_seconds, metrics or {})
    except (OSError, ValueError, TypeError, AttributeError, http.client.HTTPException):
        return False


def _post(percent: float | None, remaining: float | None, metrics: Mapping[str, object]) -> bool:
    url = os.environ.get("KUBEFLOW_TRAINER_SERVER_URL")
    token_file = os.environ.get("KUBEFLOW_TRAINER_SERVER_TOKEN")
    if not url or not token_file:
        return False
    with open(token_file, encoding="utf-8") as file:
        token = file.read().strip()
    if not token:
        return False
    import json
    import ssl
    import urllib.request

    ca_file = os.environ.get("KUBEFLOW_TRAINER_SERVER_CA_CERT")
    request = urllib.request.Request(
        url,
        data=json.dumps({"trainerStatus": _status(percent, remaining, metrics)}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    context = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None
    with urllib.request.urlopen(request, timeout=_PATIENCE, context=context) as response:
        return bool(response.status == 200)


def _status(percent: float | None, remaining: float | None, metrics: Mapping[str, object]) -> dict[str, Any]:
    import time

    status: dict[str, Any] = {"lastUpdatedTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    if percent is not None:
        status["progressPercentage"] = int(max(0, min(100, percent)))
    if remaining is not None:
        status["estimatedRemainingSeconds"] = int(max(0, remaining))
    if metrics:
        kept = list(metrics.items())[:_METRICS_LIMIT]
        status["metrics"] = [{"name": str(name), "value": str(value)} for name, value in kept]
    return status
