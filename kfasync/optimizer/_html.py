"""Studies, trials and results as pieces of HTML, for notebooks and for the report. Every text in them is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._wording import lasting, shown

if TYPE_CHECKING:
    from kfasync.optimizer._views import Metric, OptimizationJob, Result, Trial

__all__ = [
    "escape",
    "pairs",
    "result_html",
    "study_html",
    "study_pairs",
    "table",
    "trial_html",
    "trial_rows",
    "trials_html",
]

# Rows that a notebook's cell shows; the report has all.
_MOST = 100

Rows = Iterable[Sequence[object]]


def escape(value: object) -> str:
    """A value as text that HTML takes for text, within quotes too."""
    return html.escape(shown(value))


def table(head: Sequence[str], rows: Rows, *, caption: str = "") -> str:
    """A table with a header row; numbers carry their full value, for sorting, and states their name, for a colour."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{told}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # As JavaScript reads it; what is nan sorts as what is not there.
        number = "" if math.isnan(value) else repr(value).replace("inf", "Infinity")
        return f'<td class="number" data-value="{number}">{escape(value)}</td>'
    return f'<td class="{value}">{value}</td>' if isinstance(value, TrialState) else f"<td>{escape(value)}</td>"


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values."""
    body = "\n".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<table><tbody>{body}</tbody></table>"


def trial_rows(job: OptimizationJob) -> tuple[list[str], list[list[object]]]:
    """The table of a study's trials: what Katib's page shows of them, and why one failed.

    Returns:
        Titles, and a row for each trial.
    """
    objectives = [objective.metric for objective in job.objectives]
    others = [name for name in _names(job.trials) if name not in objectives]
    head = ["trial", "status", *objectives, *job.search_space, *others, "time (s)", "why", "job"]
    rows = []
    for trial in job.trials:
        achieved = job.achieved(trial)
        latest = {metric.name: metric.latest for metric in trial.metrics}
        why = ": ".join(filter(None, (trial.reason, trial.message)))
        rows.append(
            [
                trial.number,
                TrialState(trial.status),
                *(achieved.get(name, "") for name in objectives),
                *(trial.parameters.get(name, "") for name in job.search_space),
                *(latest.get(name, "") for name in others),
                "" if trial.duration is None else round(trial.duration, 3),
                why,
                trial.name,
            ]
        )
    return head, rows


def _names(trials: Iterable[Trial]) -> list[str]:
    """Every metric that some trial reported, in the order of their first mention."""
    return list(dict.fromkeys(metric.name for trial in trials for metric in trial.metrics))


def study_pairs(job: OptimizationJob) -> list[tuple[str, object]]:
    """What there is to say of a study as a whole."""
    ended = job.finished or datetime.now(tz=job.creation_timestamp.tzinfo)
    counts = ", ".join(f"{count} {state}" for state, count in job.counts.items() if count) or "none yet"
    found: list[tuple[str, object]] = [
        ("status", job.status + (f" ({job.reason})" if job.reason else "")),
        ("why", job.message or None),
        ("objective", ", ".join(f"{each.direction} {each.metric}" for each in job.objectives)),
        ("goal", job.stop.goal),
        ("trials", f"{counts}; {job.trial_config.num_trials} wanted, {job.trial_config.parallel_trials} at once"),
        ("created", job.creation_timestamp.strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("took" if job.finished else "running for", lasting((ended - job.creation_timestamp).total_seconds())),
    ]
    return [(name, value) for name, value in found if value is not None]


def study_html(job: OptimizationJob) -> str:
    """A study for a notebook: what there is to say of it, the best, and the trials."""
    head, rows = trial_rows(job)
    best = table(head, [rows[job.trials.index(trial)] for trial in job.best], caption="best") if job.best else ""
    return f"<div><b>{escape(job.name)}</b>{pairs(study_pairs(job))}{best}{_limited(head, rows)}</div>"


def trials_html(trials: Sequence[Trial]) -> str:
    """Trials for a notebook."""
    parameters = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    names = _names(trials)
    rows = []
    for trial in trials:
        latest = {metric.name: metric.latest for metric in trial.metrics}
        cells = [trial.parameters.get(name, "") for name in parameters] + [latest.get(name, "") for name in names]
        rows.append([trial.number, TrialState(trial.status), trial.reason, *cells])
    return _limited(["trial", "status", "reason", *parameters, *names], rows)


def _limited(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    more = f"<p>… and {len(rows) - _MOST} more</p>" if len(rows) > _MOST else ""
    return table(head, rows[:_MOST]) + more


def trial_html(trial: Trial) -> str:
    """A trial for a notebook."""
    about: list[tuple[str, object]] = [("status", trial.status), ("job", trial.name)]
    about += [(name, value) for name, value in (("reason", trial.reason), ("message", trial.message)) if value]
    if trial.duration is not None:
        about.append(("took", lasting(trial.duration)))
    return (
        f"<div><b>trial {escape(trial.number)}</b>{pairs(about)}"
        f"{pairs(trial.parameters.items())}{_metrics(trial.metrics)}</div>"
    )


def result_html(result: Result) -> str:
    """A result for a notebook."""
    return f"<div>{pairs(result.parameters.items())}{_metrics(result.metrics)}</div>"


def _metrics(metrics: Sequence[Metric]) -> str:
    rows = [(each.name, each.latest, each.min, each.max) for each in metrics]
    return table(("metric", "latest", "min", "max"), rows) if rows else ""
