"""The bookkeeping of a study, without a loop: what its events add up to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfasync.errors import InvalidSpecError
from kfasync.events import Event, JobStarted, TrialEnded, TrialStarted
from kfasync.optimizer import Objective, StopRules, TrialConfig
from kfasync.optimizer._study import Study, TrialRecord, objective_values
from kfasync.state import MetricSummary

_HEADER: dict[str, Any] = {"place": "here", "job": "s", "uid": "u"}
_LOSS = [Objective("loss")]


def started(number: int, retry: int = 0, time: float = 1.0, **notes: Any) -> TrialStarted:
    trial = f"s-{number}" + (f"-r{retry}" if retry else "")
    return TrialStarted(
        **_HEADER, number=number, trial=trial, parameters={"x": number}, retry=retry, notes=notes, time=time
    )


def ended(number: int, outcome: str = "complete", reason: str = "", time: float = 2.0, **metrics: float) -> TrialEnded:
    values = {name: (value, value, value) for name, value in metrics.items()}
    message = f"because of {reason}" if reason else ""
    return TrialEnded(
        **_HEADER, number=number, outcome=outcome, metrics=values, reason=reason, message=message, time=time
    )


def make(*events: Event, rules: StopRules | None = None, objectives: Any = _LOSS, **config: Any) -> Study:
    study = Study(objectives, TrialConfig(**{"num_trials": 5, "parallel_trials": 2} | config), rules)
    for event in events:
        study.apply(event)
    return study


def losses(*values: float) -> list[Event]:
    """Complete trials, one after another."""
    return [event for n, value in enumerate(values) for event in (started(n), ended(n, loss=value))]


# -------------------------------------------------------------------- room


def test_a_new_study_has_room_for_as_many_as_may_run_at_once() -> None:
    study = make()
    assert (study.room, study.next_number, study.running, study.verdict) == (2, 0, (), None)


def test_a_running_trial_takes_room_and_gives_it_back_when_it_ends() -> None:
    study = make(started(0), started(1))
    assert (study.room, study.next_number) == (0, 2)
    assert [trial.name for trial in study.running] == ["s-0", "s-1"]
    study.apply(ended(0, loss=1.0))
    assert (study.room, [trial.number for trial in study.running]) == (1, [1])


def test_the_last_trials_leave_no_room_though_places_are_free() -> None:
    study = make(*losses(1, 2, 3), started(3), started(4))
    assert (study.room, study.verdict) == (0, None)
    study.apply(ended(3, loss=1.0))
    assert (study.room, study.verdict) == (0, None)


def test_events_that_do_not_concern_trials_are_passed_over() -> None:
    study = make(started(0))
    study.apply(JobStarted(**_HEADER, ranks=()))
    assert list(study.trials) == [0]


# -------------------------------------------------------------------- verdicts


def test_a_study_whose_trials_are_all_done_is_complete() -> None:
    verdict = make(*losses(5, 4, 3, 2, 1)).verdict
    assert verdict is not None
    assert (verdict.complete, verdict.reason, verdict.message) == (True, "AllTrials", "5 trials, 0 of them failed")


def test_one_complete_trial_is_enough_for_a_complete_study() -> None:
    events = [started(0), ended(0, "failed", "Error"), started(1), ended(1, "pruned")]
    verdict = make(*events, started(2), ended(2, loss=3.0), num_trials=3).verdict
    assert verdict is not None
    assert (verdict.complete, verdict.message) == (True, "3 trials, 1 of them failed")


def test_more_failures_than_allowed_fail_the_study_at_once_and_end_what_runs() -> None:
    events = [started(0), started(1), ended(0, "failed", "Error")]
    study = make(*events, max_failed_trials=0, num_trials=5)
    assert (study.room, study.stopping, study.ends_running, study.verdict) == (0, "MaxFailedTrials", True, None)
    study.apply(ended(1, "pruned"))
    verdict = study.verdict
    assert verdict is not None
    assert (verdict.complete, verdict.reason) == (False, "MaxFailedTrials")
    assert verdict.message == "1 trials failed, the last one: trial 0: Error: because of Error"


def test_as_many_failures_as_allowed_do_not_fail_the_study() -> None:
    study = make(started(0), ended(0, "failed", "Error"), max_failed_trials=1)
    assert (study.stopping, study.room) == ("", 2)


def test_pruned_trials_are_no_failures() -> None:
    study = make(*(event for n in range(3) for event in (started(n), ended(n, "pruned"))), max_failed_trials=0)
    assert (study.stopping, study.room) == ("", 2)


def test_a_study_that_no_trial_reported_to_fails_and_says_what_to_do() -> None:
    events = [event for n in range(2) for event in (started(n), ended(n, "failed", "NoMetric"))]
    verdict = make(*events, num_trials=2).verdict
    assert verdict is not None
    assert (verdict.complete, verdict.reason) == (False, "NoMetric")
    assert verdict.message == "no trial reported 'loss': print it as name=value, or kfasync.report it"


def test_a_study_of_failed_trials_fails_with_the_last_failure() -> None:
    events = [started(0), started(1), ended(1, "failed", "OOMKilled", time=5), ended(0, "failed", "Error", time=9)]
    verdict = make(*events, num_trials=2).verdict
    assert verdict is not None
    assert (verdict.reason, verdict.message) == (
        "NoCompleteTrial",
        "no trial was complete; trial 0: Error: because of Error",
    )


def test_a_study_whose_trials_were_all_pruned_fails() -> None:
    verdict = make(started(0), ended(0, "pruned"), num_trials=1, parallel_trials=1).verdict
    assert verdict is not None
    assert (verdict.reason, verdict.message) == ("NoCompleteTrial", "no trial was complete; all were pruned")


# -------------------------------------------------------------------- stop rules


@pytest.mark.parametrize(
    ("direction", "values", "goal", "stops"),
    [
        ("minimize", [0.5, 0.1], 0.1, True),
        ("minimize", [0.5, 0.2], 0.1, False),
        ("maximize", [0.5, 0.9], 0.9, True),
        ("maximize", [0.5, 0.8], 0.9, False),
        ("minimize", [-math.inf], 0.0, True),
    ],
)
def test_a_goal_ends_the_study_when_it_is_reached(
    direction: str, values: list[float], goal: float, stops: bool
) -> None:
    study = make(*losses(*values), rules=StopRules(goal=goal), objectives=[Objective("loss", direction)])
    assert study.stopping == ("Goal" if stops else "")
    assert study.ends_running == stops
    assert (study.verdict is not None and study.verdict.complete) == stops


def test_no_improvement_counts_the_complete_trials_since_the_best() -> None:
    rules = StopRules(no_improvement=2)
    assert make(*losses(3, 1, 2), rules=rules).stopping == ""
    assert make(*losses(3, 1, 2, 1), rules=rules).stopping == "NoImprovement"
    assert make(*losses(3, 1, 2, 0.5), rules=rules).stopping == ""
    failed = [started(3), ended(3, "failed", "Error")]
    assert make(*losses(3, 1, 2), *failed, rules=rules).stopping == ""


def test_an_exhausted_study_lets_its_trials_end_and_a_timeout_does_not() -> None:
    study = make(*losses(3), started(1))
    study.stop("Exhausted")
    assert (study.room, study.ends_running, study.verdict) == (0, False, None)
    study.apply(ended(1, loss=1.0))
    assert study.verdict is not None
    assert (study.verdict.complete, study.verdict.reason) == (True, "Exhausted")
    study = make(*losses(3), started(1))
    study.stop("Timeout")
    study.stop("Exhausted")
    assert (study.stopping, study.ends_running) == ("Timeout", True)


def test_a_study_that_ended_before_any_trial_has_failed() -> None:
    study = make()
    study.stop("Timeout")
    verdict = study.verdict
    assert verdict is not None
    assert (verdict.complete, verdict.reason, verdict.message) == (
        False,
        "Timeout",
        "it ended before any trial started",
    )


@pytest.mark.parametrize(
    "rule",
    [{"goal": math.nan}, {"goal": "0.5"}, {"goal": True}, {"no_improvement": 0}, {"no_improvement": 1.5},
     {"timeout": 0}, {"timeout": -1}, {"timeout": math.inf}, {"timeout": True}],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused_by_its_name(rule: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError, match=next(iter(rule))):
        StopRules(**rule)


# -------------------------------------------------------------------- best


def test_the_best_is_the_first_of_equals() -> None:
    assert [trial.number for trial in make(*losses(2, 1, 1, 3)).best] == [1]
    study = make(*losses(2, 1, 3, 3), objectives=[Objective("loss", "maximize")])
    assert [trial.number for trial in study.best] == [2]


def test_only_complete_trials_can_be_the_best() -> None:
    study = make(*losses(2), started(1), ended(1, "pruned", loss=0.1), started(2))
    assert [trial.number for trial in study.best] == [0]
    assert make(started(0)).best == []


def test_with_several_objectives_the_best_are_the_pareto_front() -> None:
    objectives = [Objective("loss"), Objective("speed", "maximize")]
    points = [(1, 1), (2, 2), (2, 1), (0.5, 0.5), (2, 2)]
    events = [
        event for n, (loss, speed) in enumerate(points) for event in (started(n), ended(n, loss=loss, speed=speed))
    ]
    assert [trial.number for trial in make(*events, objectives=objectives).best] == [0, 1, 3, 4]


def test_an_objective_is_the_best_that_was_reported_and_nan_is_none() -> None:
    summary = MetricSummary(1.0, 9.0, 5.0)
    assert objective_values(_LOSS, {"loss": summary, "other": summary}) == {"loss": 1.0}
    assert objective_values([Objective("loss", "maximize")], {"loss": summary}) == {"loss": 9.0}
    assert objective_values(_LOSS, {"loss": MetricSummary(math.nan, math.nan, math.nan)}) == {}
    assert objective_values(_LOSS, {}) == {}


def test_the_value_of_a_checkpoint_is_the_latest_one() -> None:
    assert objective_values(_LOSS, {"loss": MetricSummary(1.0, 9.0, 5.0)}, latest=True) == {"loss": 5.0}
    assert objective_values(_LOSS, {"loss": MetricSummary(1.0, 9.0, math.nan)}, latest=True) == {}


# -------------------------------------------------------------------- retries


def test_a_retry_is_the_same_trial_with_another_job() -> None:
    study = make(started(0, time=1.0, rung=0), started(1), started(0, retry=1, time=7.0), ended(1, loss=2.0))
    trial = study.trials[0]
    assert (trial.name, trial.names, trial.retries, trial.started) == ("s-0-r1", ("s-0", "s-0-r1"), 1, 1.0)
    assert (study.next_number, study.room, list(study.trials)) == (2, 1, [0, 1])


def test_what_was_noted_at_the_end_comes_to_what_was_noted_at_the_start() -> None:
    end = TrialEnded(**_HEADER, number=0, outcome="pruned", notes={"completed_rung_0": 0.5})
    assert make(started(0, fixed=1), end).trials[0].notes == {"fixed": 1, "completed_rung_0": 0.5}


# -------------------------------------------------------------------- replay

_VALUES = st.floats(-10, 10) | st.just(math.inf)


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, Any], list[Event]]:
    """A study that runs by its own rules: it starts while there is room, and what runs ends somehow."""
    parallel = draw(st.integers(1, 3))
    given_to: dict[str, Any] = {
        "num_trials": draw(st.integers(parallel, 8)),
        "parallel_trials": parallel,
        "max_failed_trials": draw(st.none() | st.integers(0, 3)),
        "rules": StopRules(
            goal=draw(st.none() | st.floats(-10, 10)), no_improvement=draw(st.none() | st.integers(1, 3))
        ),
        "objectives": [Objective("loss", draw(st.sampled_from(["minimize", "maximize"])))],
    }
    study, events = make(**given_to), list[Event]()
    while study.verdict is None:
        steps: list[Callable[[], Event]] = []
        if study.room > 0:
            steps.append(lambda: started(study.next_number))
        if study.running:
            steps.append(lambda: draw(_ends(draw(st.sampled_from(study.running)))))
        events.append(draw(st.sampled_from(steps))())
        study.apply(events[-1])
    return given_to, events


@st.composite
def _ends(draw: st.DrawFn, trial: TrialRecord) -> Event:
    what = draw(st.sampled_from(["complete", "failed", "pruned", "retry"]))
    if what == "retry" and trial.retries < 3:
        return started(trial.number, trial.retries + 1)
    if what in ("retry", "failed"):
        return ended(trial.number, "failed", draw(st.sampled_from(["Error", "NoMetric", "Lost"])))
    return ended(trial.number, what, loss=draw(_VALUES))


def _told(study: Study) -> Mapping[str, Any]:
    names = ("room", "next_number", "running", "stopping", "ends_running", "verdict", "best", "trials")
    return {name: getattr(study, name) for name in names}


@given(histories())
def test_a_study_replayed_from_any_prefix_is_the_one_that_lived_through_it(
    history: tuple[dict[str, Any], list[Event]],
) -> None:
    given_to, events = history
    live = make(**given_to)
    for length, event in enumerate(events):
        assert _told(live) == _told(make(*events[:length], **given_to))
        live.apply(event)


@given(histories())
def test_no_study_runs_more_than_it_may_and_each_trial_ends_once(
    history: tuple[dict[str, Any], list[Event]],
) -> None:
    given_to, events = history
    study = make(**given_to)
    for event in events:
        study.apply(event)
        assert len(study.running) <= given_to["parallel_trials"]
        assert list(study.trials) == list(range(study.next_number))
    assert study.next_number <= given_to["num_trials"]
    ends = [event.number for event in events if isinstance(event, TrialEnded)]
    assert sorted(ends) == list(range(study.next_number))
    verdict = study.verdict
    assert verdict is not None
    if verdict.complete:
        assert study.best
    elif verdict.reason != "MaxFailedTrials":
        assert not study.best
