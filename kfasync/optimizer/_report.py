"""A study as one HTML file that needs no network, no server and no Python to be looked at.

Names and messages come from training code. Every one of them is escaped; and should one slip through, the page's own
policy runs no script but the page's and loads nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kfasync
from kfasync.errors import MissingExtraError, PlotError
from kfasync.optimizer._html import escape, pairs, study_pairs, table, trial_rows
from kfasync.optimizer._parameter import CategoricalSearchSpace, ParameterSpec
from kfasync.optimizer._wording import shown

if TYPE_CHECKING:
    from kfasync.optimizer._plots import Plots
    from kfasync.optimizer._views import OptimizationJob

__all__ = ["report_of", "write_report"]

#: Methods of `Plots`, and the titles of their figures.
_FIGURES = {
    "history": "History",
    "intermediate": "Intermediate values",
    "importances": "Importances",
    "parallel_coordinates": "Parallel coordinates",
    "slice": "Slices",
}
_SECTIONS = {"about": "About", "best": "Best", "figures": "Figures", "trials": "Trials", "search": "Search"}


def write_report(job: OptimizationJob, path: Path) -> Path:
    """Write the report of a study.

    Args:
        job: The study, with its curves.
        path: The file; one that is there is replaced.

    Returns:
        The path.

    Raises:
        MissingExtraError: plotly is not installed.
        OSError: The file can't be written.
    """
    path.write_text(report_of(job), encoding="utf-8")
    return path


def report_of(job: OptimizationJob) -> str:
    """The report as a page."""
    plots = job.plot  # Which tells what to install where plotly is missing.
    from plotly.offline import get_plotlyjs

    drawings, places = _figures(job, plots)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in _SECTIONS.items())
    counts = "".join(f'<li class="{state}"><strong>{count}</strong>{state}</li>' for state, count in job.counts.items())
    head, rows = trial_rows(job)
    best = [rows[job.trials.index(trial)] for trial in job.best]
    scripts = [get_plotlyjs(), _beside("js")]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(job.name)}: {escape(job.status)}</title>
<style>{_beside("css")}</style>
</head>
<body>
<header><h1>{escape(job.name)}</h1><span class="state {escape(job.status.lower())}">{escape(job.status)}</span>
<nav aria-label="sections">{links}</nav></header>
<main>
<div class="beside">
{_section("about", pairs(study_pairs(job)))}
<section aria-label="counts"><h2>Trials by state</h2><ul class="counts">{counts}</ul></section>
</div>
{_section("best", _scroll("best trials", table(head, best)) if best else _nothing("no trial is complete so far"))}
<div id="figures">{places}</div>
{_section("trials", _scroll("trials", table(head, rows)) if rows else _nothing("no trial was started so far"))}
{_section("search", _search(job))}
</main>
<footer>Written by kfasync {escape(kfasync.__version__)} on {made}.</footer>
<script type="application/json" id="drawings">{drawings}</script>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _section(name: str, content: str) -> str:
    return f'<section id="{name}"><h2>{_SECTIONS[name]}</h2>{content}</section>'


def _nothing(why: str) -> str:
    return f'<p class="nothing">{escape(why)}</p>'


def _scroll(title: str, content: str) -> str:
    """What may be larger than the page; the keyboard scrolls what has the focus."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">{content}</div>'


def _figures(job: OptimizationJob, plots: Plots) -> tuple[str, str]:
    """The figures as JSON by name, and the places where they are drawn, or why there is nothing to draw."""
    drawn, places = [], []
    for name, title in (_FIGURES | ({"pareto": "Pareto front"} if len(job.objectives) > 1 else {})).items():
        try:
            figure = getattr(plots, name)()
        except (PlotError, MissingExtraError) as error:
            place = _nothing(str(error))
        else:
            figure.update_layout(title=None, template=None)
            drawn.append(f"{json.dumps(name)}: {figure.to_json()}")
            place = (
                f'<div id="figure-{name}" role="img" aria-label="{title}; the table of trials has the values"></div>'
            )
        places.append(f"<section><h2>{title}</h2>{place}</section>")
    # An end of the script in a text must not be one.
    return f"{{{', '.join(drawn)}}}".replace("<", r"\u003c"), "\n".join(places)


def _search(job: OptimizationJob) -> str:
    """What was searched, and how."""
    rows = [(name, *_described(spec)) for name, spec in job.search_space.items()]
    stopping = None if job.early_stopping is None else job.early_stopping.to_dict()
    settings: dict[str, Mapping[str, Any] | None] = {
        "Algorithm": job.algorithm.to_dict(),
        "Early stopping": stopping,
        "Trials": job.trial_config.to_dict(),
        "Stop rules": {name: value for name, value in dataclasses.asdict(job.stop).items() if value is not None},
    }
    told = "".join(f"<div><h3>{title}</h3>{pairs(each.items())}</div>" for title, each in settings.items() if each)
    space = table(("parameter", "kind", "values", "only with"), rows)
    return f'{_scroll("search space", space)}<div class="beside">{told}</div>'


def _described(spec: ParameterSpec) -> tuple[str, str, str]:
    """Kind, values and conditions of a parameter."""
    only = " and ".join(f"{each.parameter} = {_either(each.values)}" for each in spec.conditions)
    if isinstance(spec, CategoricalSearchSpace):
        return spec.type, _either(spec.choices), only
    fields = {each.name: getattr(spec, each.name) for each in dataclasses.fields(spec) if each.name != "conditions"}
    return spec.type, ", ".join(f"{name} {shown(value)}" for name, value in fields.items()), only


def _either(values: tuple[Any, ...]) -> str:
    return " | ".join(map(shown, values))


def _beside(kind: str) -> str:
    return Path(__file__).with_suffix(f".{kind}").read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """What the page may do. Parallel coordinates are drawn by a library that compiles its own code."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    listed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {listed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "form-action 'none'; base-uri 'none'"
    )
