"""Reading numbers from what a job prints and reports. Input is hostile: any text is taken, in linear time."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["MetricSummary", "Reported", "is_printable", "parse_metrics", "parse_report", "summarise"]

# Katib's rule for `name=value` (its stdout collector), plus nan and inf. A value that is no number is taken as far as
# Katib takes it, so that the next name begins where it does there. The time is linear, for no character is looked at
# from more than two starting points: quantifiers are possessive, a word without a value is taken whole, and so is a run
# of other characters.
_EXPONENT = r"(?:[eE][+-]?\d++)?+"
_NUMBER = rf"[+-]?(?:(?:\d++(?:\.\d++)?+|\.\d++){_EXPONENT}|(?i:nan|inf(?:inity)?+)(?!\w))"
_NAME = re.compile(r"[\w|-]+", re.ASCII)
_SCANNER = re.compile(rf"([\w|-]++)(?:\s*+=\s*+(?:({_NUMBER})|[+-]?{_EXPONENT}))?+|[^\w|-]++", re.ASCII)


@dataclass(frozen=True)
class MetricSummary:
    """Smallest, largest and latest value of a metric; nan is a ``min`` or ``max`` only if nothing else was seen."""

    min: float
    max: float
    latest: float


class Reported(NamedTuple):
    """What a job's `MetricReported` says: the job, the step if one was given, numbers by metric, and the rank."""

    job: str
    step: float | None
    values: dict[str, float]
    rank: int = 0


def summarise(old: MetricSummary | None, value: float, *, is_latest: bool = True) -> MetricSummary:
    """The summary with one more value.

    Args:
        old: The summary so far, None before the first value.
        value: The value.
        is_latest: False for a value of an older attempt that was read late.
    """
    if old is None:
        return MetricSummary(value, value, value)
    latest = value if is_latest else old.latest
    if math.isnan(value):
        return MetricSummary(old.min, old.max, latest)
    if math.isnan(old.min):
        return MetricSummary(value, value, latest)
    return MetricSummary(min(old.min, value), max(old.max, value), latest)


def is_printable(name: str) -> bool:
    """Whether a metric of this name can be printed as ``name=value``; others can only be reported."""
    return _NAME.fullmatch(name) is not None


def parse_metrics(line: str) -> list[tuple[str, float]]:
    """The ``name=value`` pairs of a line of output.

    Args:
        line: Any text.

    Returns:
        Names and numbers in the order of the line; a name may occur twice.

    Example:
        >>> parse_metrics("epoch=3 loss = 2.5e-1, lr=nan, model=big")
        [('epoch', 3.0), ('loss', 0.25), ('lr', nan)]
    """
    if "=" not in line:
        return []
    return [(match[1], float(match[2])) for match in _SCANNER.finditer(line) if match[2] is not None]


Report = (
    tuple[Literal["metric"], float | None, dict[str, float]]
    | tuple[Literal["progress"], float | None, float | None, str]
)


def parse_report(line: str) -> Report | None:
    """What one line of a rank's report file says.

    Args:
        line: A line that `kfasync.worker` wrote, or anything else.

    Returns:
        ``("metric", step, values)``, ``("progress", percent, remaining, message)``, or None for a torn or foreign line.

    Example:
        >>> parse_report('{"k": "metric", "t": 1.0, "s": 2, "m": {"loss": 0.5}}')
        ('metric', 2.0, {'loss': 0.5})
    """
    try:
        # json.loads recurses: a line of brackets must not end the reader.
        data = json.loads(line)
        if not isinstance(data, dict):
            return None
        if data.get("k") == "metric":
            values = {name: _number(value) for name, value in data["m"].items()}
            return ("metric", _optional(data.get("s")), values) if values else None
        if data.get("k") == "progress":
            return ("progress", _optional(data.get("p")), _optional(data.get("r")), str(data.get("msg") or ""))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(value)
    return float(value)


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)
