"""Figures of a study. plotly is loaded when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kfasync.errors import InvalidSpecError, MissingExtraError, PlotError
from kfasync.optimizer._axes import Axis, label
from kfasync.optimizer._objective import Direction, Objective, TrialState
from kfasync.optimizer._space import SearchSpace

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from kfasync.optimizer._views import OptimizationJob, Trial

__all__ = ["Plots"]

#: Readable on a light and on a dark page, and to those who don't tell red from green.
_COLORS = {
    TrialState.COMPLETE.value: "#3f7fe0",
    TrialState.PRUNED.value: "#b98a2f",
    TrialState.FAILED.value: "#d2555a",
    TrialState.RUNNING.value: "#8b93a1",
}
_BEST = "#f0883e"
_SCALE = [[0.0, "#3465c9"], [0.5, "#a06cb0"], [1.0, _BEST]]
_SYMBOLS = {TrialState.COMPLETE.value: "circle", TrialState.PRUNED.value: "x", TrialState.FAILED.value: "cross"}

# Slices beside each other, and pixels of one from top to bottom.
_COLUMNS, _HEIGHT = 3, 300
# Characters of a name that fit beside others.
_LONG = 14


class Plots:
    """Figures of a study, as plotly's: in a notebook they show themselves, elsewhere call ``show()``.

    Every method raises `PlotError` where the study has nothing (yet) that its figure could show, and says why.
    Values that are infinite can't be drawn; the figure says how many there are.

    Args:
        job: The study, as it was when it was asked for.

    Raises:
        MissingExtraError: plotly is not installed.

    Example:
        >>> job = client.get_job(name)  # doctest: +SKIP
        >>> job.plot.history().show()  # doctest: +SKIP
        >>> job.plot.slice("accuracy").write_html("slice.html")  # doctest: +SKIP
    """

    def __init__(self, job: OptimizationJob) -> None:
        try:
            import plotly.graph_objects as graph_objects
            from plotly.subplots import make_subplots
        except ModuleNotFoundError as error:
            raise MissingExtraError("figures of a study", "plot") from error
        self._go: Any = graph_objects
        self._subplots: Any = make_subplots
        self._job = job

    def history(self) -> Figure:
        """The value of each trial, and the best so far, for each objective."""
        objectives = self._job.objectives
        figure = self._subplots(rows=len(objectives), cols=1, shared_xaxes=True, vertical_spacing=0.06)
        self._complete()
        for row, objective in enumerate(objectives, 1):
            for trace in self._history(objective, legend=row == 1):
                figure.add_trace(trace, row, 1)
            figure.update_yaxes(title_text=label(objective.metric), row=row, col=1)
        figure.update_xaxes(title_text="trial", row=len(objectives), col=1)
        figure.update_layout(height=max(400, _HEIGHT * len(objectives)))
        infinite = sum(not math.isfinite(value) for trial in self._job.trials for value in self._values(trial))
        return self._finished(figure, "history", infinite)

    def _history(self, objective: Objective, *, legend: bool) -> Iterable[Any]:
        known = [(trial, value) for trial in self._job.trials if (value := self._value(trial, objective)) is not None]
        for state, symbol in _SYMBOLS.items():
            some = [(trial, value) for trial, value in known if trial.status == state]
            if some:
                yield self._go.Scatter(
                    x=[trial.number for trial, _ in some],
                    y=[value for _, value in some],
                    hovertext=[self._hover(trial) for trial, _ in some],
                    hoverinfo="text",
                    mode="markers",
                    marker={"color": _COLORS[state], "symbol": symbol, "size": 7},
                    name=state,
                    legendgroup=state,
                    showlegend=legend,
                )
        complete = [(trial, value) for trial, value in known if trial.status == TrialState.COMPLETE]
        yield self._go.Scatter(
            x=[trial.number for trial, _ in complete],
            y=_best_so_far([value for _, value in complete], objective),
            mode="lines",
            line={"color": _BEST, "shape": "hv", "width": 2},
            name="best so far",
            legendgroup="best",
            showlegend=legend,
        )

    def parallel_coordinates(self, objective: str | None = None) -> Figure:
        """Each complete trial as a line through its parameters and its values, coloured by an objective.

        Args:
            objective: Its metric; the first objective by default.
        """
        goal = self._goal(objective)
        trials, values, infinite = self._drawable(goal)
        axes = [Axis.of(name, spec) for name, spec in self._job.search_space.items()]
        dimensions = [axis.parallel([_place(axis, trial) for trial in trials]) for axis in axes]
        for each in self._job.objectives:
            dimensions.append(Axis(each.metric).parallel([self._value(trial, each) for trial in trials]))
        # Long names would lie over each other.
        angle = -20 if any(len(each["label"]) > _LONG for each in dimensions) else 0
        line = {"color": values, "showscale": True, "colorbar": _bar(goal.metric), **_scale(goal)}
        figure = self._go.Figure(
            self._go.Parcoords(dimensions=dimensions, line=line, labelangle=angle, labelside="bottom")
        )
        figure.update_layout(margin={"l": 80, "r": 60, "b": 100})
        return self._finished(figure, "parallel coordinates", infinite)

    def importances(self, objective: str | None = None) -> Figure:
        """How much each parameter matters for being among the best tenth, by Optuna's PED-ANOVA.

        Args:
            objective: The metric; the first objective by default.

        Raises:
            MissingExtraError: Optuna is not installed.
        """
        goal = self._goal(objective)
        trials, values, infinite = self._drawable(goal)
        if len(set(values)) < 2:
            raise PlotError(
                f"importances compare trials by {goal.metric!r}, of which {len(trials)} of {self._job.name!r} have one "
                "value: wait until two complete trials differ"
            )
        shares = self._importances(goal, trials, values)
        names = sorted(shares, key=lambda name: shares[name])
        bars = self._go.Bar(
            x=[shares[name] for name in names],
            y=list(range(len(names))),
            orientation="h",
            text=[f"{shares[name]:.2f}" for name in names],
            hoverinfo="skip",
            marker={"color": _COLORS[TrialState.COMPLETE.value]},
        )
        figure = self._go.Figure(bars)
        figure.update_yaxes(tickvals=list(range(len(names))), ticktext=[label(name) for name in names])
        figure.update_xaxes(title_text=f"share of what decides on {label(goal.metric)}", rangemode="tozero")
        figure.update_layout(height=max(300, 120 + 32 * len(names)), yaxis_automargin=True)
        return self._finished(figure, "importances", infinite)

    def _importances(self, goal: Objective, trials: Sequence[Trial], values: Sequence[float]) -> Mapping[str, float]:
        try:
            from kfasync.optimizer._optuna import importances
        except ModuleNotFoundError as error:
            raise MissingExtraError("importances of parameters", "optimizer") from error
        points = [trial.parameters for trial in trials]
        return importances(SearchSpace(self._job.search_space), goal, points, values)

    def slice(self, objective: str | None = None) -> Figure:
        """An objective by each parameter; a trial without the parameter is not in its slice.

        Args:
            objective: The metric; the first objective by default.
        """
        goal = self._goal(objective)
        trials, values, infinite = self._drawable(goal)
        space = self._job.search_space
        columns = min(len(space), _COLUMNS)
        rows = math.ceil(len(space) / columns)
        gap = min(0.3 / rows, 0.5 / max(rows - 1, 1))
        figure = self._subplots(rows=rows, cols=columns, shared_yaxes=True, vertical_spacing=gap)
        for place, (name, spec) in enumerate(space.items()):
            row, column = place // columns + 1, place % columns + 1
            axis = Axis.of(name, spec)
            some = [(trial, value) for trial, value in zip(trials, values, strict=True) if name in trial.parameters]
            trace = self._slice(axis, some)
            figure.add_trace(trace, row, column)
            figure.update_xaxes(axis.cartesian(trace.x), row=row, col=column)
        figure.update_yaxes(title_text=label(goal.metric), col=1)
        figure.update_layout(
            height=max(400, _HEIGHT * rows),
            showlegend=False,
            coloraxis={"colorscale": _SCALE, "colorbar": _bar("trial")},
        )
        return self._finished(figure, "slice", infinite)

    def _slice(self, axis: Axis, some: Sequence[tuple[Trial, float]]) -> Any:
        return self._go.Scatter(
            x=[_place(axis, trial) for trial, _ in some],
            y=[value for _, value in some],
            hovertext=[self._hover(trial) for trial, _ in some],
            hoverinfo="text",
            mode="markers",
            marker={"color": [trial.number for trial, _ in some], "coloraxis": "coloraxis", "size": 7},
        )

    def pareto(self, *objectives: str) -> Figure:
        """Two or three objectives against each other; the trials that no other one beats stand out.

        Args:
            objectives: Their metrics; the first three by default. The front is that of all objectives.
        """
        goals = [self._goal(metric) for metric in objectives] or self._job.objectives[:3]
        if len(self._job.objectives) < 2:
            raise PlotError(f"{self._job.name!r} has one objective, and so one best trial: see history()")
        if not 2 <= len(goals) <= 3:
            raise InvalidSpecError(f"pareto shows two or three objectives, not {len(goals)}: {list(objectives)}")
        front = {trial.number for trial in self._job.best}
        complete = self._complete()
        drawn = [trial for trial in complete if all(self._value(trial, goal) is not None for goal in goals)]
        figure = self._go.Figure()
        for name, color, some in (
            ("beaten", _COLORS[TrialState.RUNNING.value], [trial for trial in drawn if trial.number not in front]),
            ("Pareto front", _BEST, [trial for trial in drawn if trial.number in front]),
        ):
            figure.add_trace(self._cloud(name, color, goals, some))
        axes = dict(zip("xyz", ({"title": {"text": label(goal.metric)}} for goal in goals), strict=False))
        named = {f"{letter}axis": axis for letter, axis in axes.items()}
        figure.update_layout(**({"scene": named} if len(goals) == 3 else named), height=500)
        return self._finished(figure, "Pareto front", len(complete) - len(drawn))

    def _cloud(self, name: str, color: str, goals: Sequence[Objective], trials: Sequence[Trial]) -> Any:
        places = [[self._value(trial, goal) for trial in trials] for goal in goals]
        kind = self._go.Scatter3d if len(goals) == 3 else self._go.Scatter
        return kind(
            **dict(zip("xyz", places, strict=False)),
            hovertext=[self._hover(trial) for trial in trials],
            hoverinfo="text",
            mode="markers",
            marker={"color": color, "size": 4 if len(goals) == 3 else 8},
            name=name,
        )

    def intermediate(self, metric: str | None = None) -> Figure:
        """What each trial reported on its way, by step.

        Args:
            metric: Any metric that was reported; that of the first objective by default.
        """
        name = metric or self._job.objectives[0].metric
        if any(trial.curves is None for trial in self._job.trials):
            raise PlotError(
                f"this view of {self._job.name!r} was made without curves: ask client.get_job({self._job.name!r})"
            )
        told = {trial.number: trial.curves or {} for trial in self._job.trials}
        curves = {number: metrics[name] for number, metrics in told.items() if name in metrics}
        if not curves:
            raise PlotError(f"no trial of {self._job.name!r} has reported {name!r} so far")
        best = {trial.number for trial in self._job.best}
        figure = self._go.Figure()
        for state, color in _COLORS.items():
            some = [t.number for t in self._job.trials if t.status == state and t.number in curves.keys() - best]
            if some:
                figure.add_trace(self._lines(state, color, 1.0, {number: curves[number] for number in some}))
        if shown := {number: curves[number] for number in best if number in curves}:
            figure.add_trace(self._lines("best", _BEST, 2.5, shown))
        figure.update_xaxes(title_text="step")
        figure.update_yaxes(title_text=label(name))
        infinite = sum(math.isinf(value) for points in curves.values() for _, value in points)
        return self._finished(figure, "intermediate values", infinite)

    def _lines(self, name: str, color: str, width: float, curves: Mapping[int, Sequence[tuple[float, float]]]) -> Any:
        """Curves of several trials as one trace: a trace for each of a thousand would take the browser minutes."""
        points = [
            (step, value if math.isfinite(value) else None, number)
            for number, curve in curves.items()
            for step, value in (*curve, (None, math.nan))
        ]
        single = any(len(curve) == 1 for curve in curves.values())
        return self._go.Scatter(
            x=[step for step, _, _ in points],
            y=[value for _, value, _ in points],
            customdata=[number for _, _, number in points],
            hovertemplate="trial %{customdata}<br>step %{x}<br>%{y}<extra></extra>",
            mode="lines+markers" if single else "lines",
            line={"color": color, "width": width},
            opacity=1.0 if name == "best" else 0.55,
            name=name,
        )

    # ---------------------------------------------------------------- what they share

    def _goal(self, metric: str | None) -> Objective:
        objectives = self._job.objectives
        if metric is None:
            return objectives[0]
        for objective in objectives:
            if objective.metric == metric:
                return objective
        known = [objective.metric for objective in objectives]
        raise InvalidSpecError(f"{metric!r} is no objective of {self._job.name!r}, which has {known}")

    def _complete(self) -> list[Trial]:
        found = [trial for trial in self._job.trials if trial.status == TrialState.COMPLETE]
        if not found:
            there = ", ".join(f"{count} {state}" for state, count in self._job.counts.items() if count)
            raise PlotError(f"no trial of {self._job.name!r} is complete so far: {there or 'none was started'}")
        return found

    def _drawable(self, goal: Objective) -> tuple[list[Trial], list[float], int]:
        """The complete trials with a finite value of an objective, these values, and how many others there are."""
        complete = self._complete()
        known = [(trial, value) for trial in complete if (value := self._value(trial, goal)) is not None]
        if not known:
            raise PlotError(f"every complete trial of {self._job.name!r} has an infinite {goal.metric!r}")
        return [trial for trial, _ in known], [value for _, value in known], len(complete) - len(known)

    def _values(self, trial: Trial) -> Iterable[float]:
        return self._job.achieved(trial).values()

    def _value(self, trial: Trial, objective: Objective) -> float | None:
        value = self._job.achieved(trial).get(objective.metric)
        return value if value is not None and math.isfinite(value) else None

    def _hover(self, trial: Trial) -> str:
        told = {**self._job.achieved(trial), **trial.parameters}
        lines = [f"{label(name)}: {label(value)}" for name, value in told.items()]
        return "<br>".join([f"trial {trial.number}: {label(trial.status)}", *lines])

    def _finished(self, figure: Figure, what: str, infinite: int) -> Figure:
        figure.update_layout(title_text=f"{label(self._job.name)}: {what}", template="plotly_white")
        if infinite:
            text = f"{infinite} infinite value{'s are' if infinite > 1 else ' is'} not drawn"
            figure.add_annotation(
                text=text, xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom", showarrow=False
            )
        return figure


def _place(axis: Axis, trial: Trial) -> float | None:
    return axis.at(trial.parameters[axis.name]) if axis.name in trial.parameters else None


def _best_so_far(values: Iterable[float], objective: Objective) -> list[float]:
    better = min if objective.direction == Direction.MINIMIZE else max
    found: list[float] = []
    for value in values:
        found.append(better(value, found[-1]) if found else value)
    return found


def _scale(goal: Objective) -> dict[str, Any]:
    """Bright is good."""
    return {"colorscale": _SCALE, "reversescale": goal.direction == Direction.MINIMIZE}


def _bar(title: str) -> dict[str, Any]:
    return {"title": {"text": label(title)}, "thickness": 12}
