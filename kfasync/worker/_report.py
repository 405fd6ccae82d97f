"""Numbers and progress from training code: one JSON line each, appended to the rank's own file."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping

__all__ = ["MARK", "emit", "number", "progress", "report", "report_metrics"]

#: What a reported line begins with where it travels among the lines of stdout (KFASYNC_REPORT=stdout).
MARK = "::kfasync::"


def report(step: float | None = None, /, **metrics: object) -> bool:
    """Report metrics of the training.

    Args:
        step: The training step they belong to; may also be given as ``step=`` or ``epoch=``, which stays a metric.
        **metrics: Numbers by name: int, float, or whatever ``float()`` takes, such as a scalar tensor; nan and inf too.

    Returns:
        Whether anybody can read it: False outside of a job.

    Raises:
        TypeError: There is no metric, or a value is not a number; the message names the metric.

    Example:
        >>> report(epoch=3, loss=0.25)
        False
    """
    if "step" in metrics:
        if step is not None:
            raise TypeError("report() got the step twice: by position and as step=")
        step = metrics.pop("step")  # type: ignore[assignment]
    if not metrics:
        raise TypeError("report() has no metrics: give numbers by name, such as report(step=1, loss=0.5)")
    if step is None:
        step = metrics.get("epoch")  # type: ignore[assignment]
    values = {name: number(f"the metric {name!r}", value) for name, value in metrics.items()}
    return emit_metrics(values, None if step is None else number("the step", step))


def report_metrics(metrics: Mapping[str, object] | None = None, step: float | None = None, **more: object) -> bool:
    """Report metrics of the training, under Kubeflow's name for it: `report`, which takes a mapping too.

    Args:
        metrics: Numbers by name, where a name is no Python name.
        step: The training step they belong to.
        **more: Numbers by name.

    Returns:
        Whether anybody can read it: False outside of a job.

    Raises:
        TypeError: There is no metric, or a value is not a number; the message names the metric.

    Example:
        >>> report_metrics({"val/loss": 0.25}, step=3)
        False
    """
    return report(step, **{**(metrics or {}), **more})


def progress(percent: float | None = None, *, remaining: float | None = None, message: str = "") -> bool:
    """Report how far the training is.

    Args:
        percent: 0 to 100; what is below or above counts as the nearest of the two, as with Kubeflow.
        remaining: Estimated seconds to the end.
        message: A word for people, such as the present phase.

    Returns:
        Whether anybody can read it: False outside of a job.

    Raises:
        TypeError: A value is not a number.
    """
    return emit_progress(
        None if percent is None else number("percent", percent),
        None if remaining is None else number("remaining", remaining),
        str(message),
    )


def number(what: str, value: object) -> float:
    """The value as a float; ``what`` it is, for the message.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, (str, bytes, bytearray)):
        # A loss that still belongs to the graph: torch warns when it is converted as it is.
        detach = getattr(value, "detach", None)
        try:
            return float(detach() if detach is not None else value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError, RuntimeError) as e:
            raise TypeError(f"{what} is no single number: {_short(value)}") from e
    raise TypeError(f"{what} is no single number: {_short(value)}")


def emit_metrics(values: dict[str, float], step: float | None, **extra: str) -> bool:
    """Append one metric line."""
    plain = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
    if step is not None and not math.isfinite(step):
        step = None
    return emit({"k": "metric", "t": time.time(), "s": step, "m": plain, **extra})


def emit_progress(percent: float | None, remaining: float | None, message: str = "", **extra: str) -> bool:
    """Append one progress line; a value that is not finite says nothing."""
    percent = min(max(percent, 0.0), 100.0) if percent is not None and math.isfinite(percent) else None
    remaining = remaining if remaining is not None and math.isfinite(remaining) else None
    return emit({"k": "progress", "t": time.time(), "p": percent, "r": remaining, "msg": message, **extra})


def emit(record: dict[str, object]) -> bool:
    """Append one line to wherever this rank's reports go; False outside of a job.

    The file is opened each time: a descriptor kept open could be closed under us by the user's code (daemons do), and
    its number then means another file. One write to an O_APPEND file keeps the lines of threads and children whole.
    """
    line = json.dumps(record, separators=(",", ":"))
    if os.environ.get("KFASYNC_REPORT") == "stdout":
        _write(1, (MARK + line + "\n").encode())
        return True
    path = os.environ.get("KFASYNC_REPORT_FILE")
    if not path:
        return False
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, (line + "\n").encode())
    finally:
        os.close(fd)
    return True


def _write(fd: int, data: bytes) -> None:
    # More than one round only where the disk is full, which the next round then says, or a pipe is.
    while data:
        data = data[os.write(fd, data) :]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
