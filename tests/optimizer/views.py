"""Studies made by hand, to be looked at. Loaded by tests only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from kfasync.optimizer import Metric, Objective, OptimizationJob, RandomSearch, Search, SearchSpace, Trial, TrialConfig
from kfasync.optimizer._views import TrialList

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPACE = {
    "lr": Search.loguniform(1e-5, 1e-1),
    "size": Search.int(1, 100),
    "kind": Search.choice(["sgd", "adam", None]),
    "momentum": Search.uniform(0, 1).when("kind", "sgd"),
}
#: Names that somebody takes for a tag, an entity, a link, a formula, a template, an escape sequence or a text's end.
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    '<a href="javascript:alert(1)">x</a>',
    "<b>&amp;$x^2$ %{x} \x1b[31m\n\ud800\u202e\u2028",
)


def metric(name: str, *values: float) -> Metric:
    return Metric(name, min(values), max(values), values[-1])


def trial(
    number: int,
    status: str = "complete",
    parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    **fields: Any,
) -> Trial:
    found = {"lr": 10.0 ** -(1 + number % 4), "size": number + 1, "kind": ["sgd", "adam", None][number % 3]}
    if found["kind"] == "sgd":
        found["momentum"] = 0.5
    ended = None if status == "running" else BEGAN + timedelta(seconds=number + 2.5)
    return Trial(
        name=f"demo-{number}",
        parameters=dict(found if parameters is None else parameters),
        trainjob=None,
        metrics=[metric(name, value) for name, value in (metrics or {}).items()],
        number=number,
        status=status,
        started=BEGAN + timedelta(seconds=number),
        finished=ended,
        **fields,
    )


def losses(*values: float, **fields: Any) -> list[Trial]:
    """Complete trials."""
    return [trial(number, metrics={"loss": value}, **fields) for number, value in enumerate(values)]


def study(*trials: Trial, space: Mapping[str, Any] = SPACE, metrics: tuple[str, ...] = ("loss",), **fields: Any) -> Any:
    told: dict[str, Any] = {
        "name": "demo",
        "search_space": dict(SearchSpace(space).parameters),
        "objectives": [Objective(name) for name in metrics],
        "algorithm": RandomSearch(),
        "trial_config": TrialConfig(max(1, len(trials))),
        "trials": TrialList(trials),
        "creation_timestamp": BEGAN,
        "status": "Running",
    }
    return OptimizationJob(**told | fields)
