"""The reducer: transitions, what counts as news, and properties over arbitrary histories."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfasync.errors import TransitionError
from kfasync.events import (
    Event,
    Gap,
    JobCompleted,
    JobDeleted,
    JobFailed,
    JobPending,
    JobRestarting,
    JobResumed,
    JobStarted,
    JobSubmitted,
    JobSuspended,
    JobWarning,
    MetricReported,
    ProgressReported,
    RankExited,
    RankInfo,
    StepChanged,
    StopRequested,
    UnknownEvent,
)
from kfasync.state import TERMINAL, JobState, Progress, Status, is_news, reduce

SPEC = {"name": "demo", "num_nodes": 2}


def event(kind: type[Event], **fields: Any) -> Any:
    return kind(**{"place": "here", "job": "demo", "uid": "u1", "time": 10.0} | fields)


def submitted(**fields: Any) -> Any:
    return event(JobSubmitted, **{"spec": SPEC, "digest": "d"} | fields)


def ranks(count: int) -> tuple[RankInfo, ...]:
    return tuple(RankInfo(node=rank, rank=rank, pid=100 + rank) for rank in range(count))


def fold(events: Iterable[Event], state: JobState | None = None) -> JobState:
    """What the journal does: what is no news is left out."""
    for each in events:
        if is_news(state, each):
            state = reduce(state, each)
    assert state is not None
    return state


RUNNING = (submitted(), event(JobStarted, ranks=ranks(2), time=11.0))


def test_a_submitted_job_is_created_and_queued() -> None:
    state = fold([submitted(cursor=7)])
    assert (state.status, state.reason, state.created, state.cursor) == (Status.CREATED, "Queued", 10.0, 7)
    assert state.job_spec.num_nodes == 2


def test_a_pending_reason_is_shown_while_nothing_runs() -> None:
    state = fold([submitted(), event(JobPending, reason="ImagePull", message="pulling")])
    assert (state.status, state.reason, state.message) == (Status.CREATED, "ImagePull", "pulling")


def test_a_started_job_runs_with_its_ranks_and_without_a_reason() -> None:
    state = fold([*RUNNING])
    assert (state.status, state.reason, state.started) == (Status.RUNNING, "", 11.0)
    assert [(rank.rank, rank.status, rank.pid) for rank in state.ranks] == [(0, "Running", 100), (1, "Running", 101)]


def test_a_rank_that_ended_before_all_were_up_stays_ended() -> None:
    state = fold([submitted(), event(RankExited, node=1, rank=1, exit_code=3), event(JobStarted, ranks=ranks(2))])
    assert [(rank.status, rank.exit_code, rank.pid) for rank in state.ranks] == [
        ("Running", None, 100),
        ("Failed", 3, 101),
    ]


def test_completion_settles_ranks_and_steps_that_nobody_told_about() -> None:
    state = fold([*RUNNING, event(StepChanged, step="node-0", status="Running"), event(JobCompleted, time=12.0)])
    assert (state.status, state.finished) == (Status.COMPLETE, 12.0)
    assert {rank.status for rank in state.ranks} == {"Succeeded"}
    assert state.steps["node-0"].status == "Succeeded"


def test_a_failure_keeps_the_details_and_what_other_ranks_did() -> None:
    failed = event(JobFailed, reason="Error", message="boom", exit_code=1, rank=1, node=1, last_lines=("a", "b"))
    state = fold([*RUNNING, event(RankExited, node=0, rank=0, exit_code=0), failed])
    assert (state.status, state.reason, state.message) == (Status.FAILED, "Error", "boom")
    assert state.failure is not None
    assert (state.failure.rank, state.failure.last_lines) == (1, ("a", "b"))
    assert [rank.status for rank in state.ranks] == ["Succeeded", "Failed"]


@pytest.mark.parametrize("first", [JobCompleted, JobFailed])
def test_a_terminal_state_is_final(first: type[Event]) -> None:
    end = event(first, reason="Cancelled") if first is JobFailed else event(first)
    before = fold([*RUNNING, end])
    later = [
        event(JobFailed, reason="Error"),
        event(JobCompleted),
        event(JobStarted),
        event(JobSuspended),
        event(RankExited, node=0, rank=0, exit_code=1),
        event(StopRequested, cause="cancel"),
        event(JobRestarting, attempt=2),
        event(StepChanged, step="node-0", status="Running"),
    ]
    assert not any(is_news(before, each) for each in later)
    for each in later:
        with pytest.raises(TransitionError):
            reduce(before, each)


def test_reports_and_warnings_count_after_the_end() -> None:
    state = fold(
        [
            *RUNNING,
            event(JobCompleted),
            event(MetricReported, values={"loss": 0.5}),
            event(ProgressReported, percent=100),
            event(JobWarning, reason="NoGpu", message="none"),
            event(Gap, what="log"),
        ]
    )
    assert state.status is Status.COMPLETE
    assert state.metrics["loss"].latest == 0.5
    assert state.progress == Progress(percent=100.0)
    assert state.warnings == (("NoGpu", "none"),)


def test_deletion_is_news_once_and_nothing_is_news_after_it() -> None:
    state = fold([*RUNNING, event(JobCompleted), event(JobDeleted)])
    assert state.deleted
    assert not is_news(state, event(JobDeleted))
    assert not is_news(state, event(MetricReported, values={"loss": 1.0}))


def test_a_resume_begins_a_new_attempt_and_moves_the_deadline() -> None:
    state = fold(
        [
            *RUNNING,
            event(StopRequested, cause="suspend", message="by hand"),
            event(JobSuspended),
            event(JobResumed, attempt=2, time=50.0),
        ]
    )
    assert (state.status, state.reason, state.attempt, state.resumed) == (Status.CREATED, "Queued", 2, 50.0)
    assert (state.stop, state.ranks, state.started) == (None, (), 11.0)


def test_a_suspended_job_says_why() -> None:
    state = fold([*RUNNING, event(StopRequested, cause="suspend", message="by hand"), event(JobSuspended)])
    assert (state.status, state.reason, state.message) == (Status.SUSPENDED, "Suspended", "by hand")


def test_a_restart_counts_and_forgets_the_old_ranks() -> None:
    state = fold([*RUNNING, event(JobRestarting, attempt=2, message="rank 1 died")])
    assert (state.status, state.reason, state.attempt, state.restarts) == (Status.CREATED, "Restarting", 2, 1)
    assert state.ranks == ()


def test_a_cancel_that_races_with_a_restart_is_kept() -> None:
    asked = event(StopRequested, cause="cancel", attempt=1)
    restarted = event(JobRestarting, attempt=2)
    assert fold([*RUNNING, asked, restarted]).stop == "cancel"
    assert fold([*RUNNING, restarted, asked]).stop == "cancel"


def test_a_decided_end_outranks_a_suspend_and_is_not_replaced() -> None:
    suspend, cancel, deadline = (event(StopRequested, cause=cause) for cause in ("suspend", "cancel", "deadline"))
    assert fold([*RUNNING, suspend, cancel]).stop == "cancel"
    assert fold([*RUNNING, cancel, deadline, suspend]).stop == "cancel"


@pytest.mark.parametrize(
    "late",
    [
        event(JobStarted),
        event(JobPending, reason="ImagePull"),
        event(RankExited, node=0, rank=0, exit_code=1),
        event(StepChanged, step="node-0", status="Failed"),
        event(JobSuspended),
        event(JobFailed, reason="Error"),
        event(JobResumed),
        event(JobRestarting),
    ],
    ids=lambda late: type(late).__name__,
)
def test_what_an_older_attempt_did_is_no_news(late: Event) -> None:
    state = fold([*RUNNING, event(JobRestarting, attempt=2)])
    assert not is_news(state, late)


def test_late_and_repeated_events_of_the_same_attempt_are_no_news() -> None:
    running = fold([*RUNNING, event(StepChanged, step="node-0", status="Succeeded")])
    assert not is_news(running, event(JobStarted))
    assert not is_news(running, event(JobPending, reason="Queued"))
    assert not is_news(running, event(StepChanged, step="node-0", status="Running"))
    exited = fold([event(RankExited, node=0, rank=0, exit_code=0)], running)
    assert not is_news(exited, event(RankExited, node=0, rank=0, exit_code=1))
    assert not is_news(fold([event(JobSuspended)], running), event(JobStarted))


@pytest.mark.parametrize(
    "impossible",
    [event(JobResumed, attempt=2), event(JobStarted, attempt=2), event(RankExited, node=0, rank=0, attempt=3)],
    ids=lambda event: type(event).__name__,
)
def test_an_impossible_event_raises_with_the_history(impossible: Event) -> None:
    with pytest.raises(TransitionError, match=r"demo.*u1.*attempt.*status='Running'"):
        reduce(fold(RUNNING), impossible)


def test_an_event_of_an_unknown_job_raises() -> None:
    with pytest.raises(TransitionError, match="not known"):
        reduce(None, event(JobStarted))


def test_an_end_counts_even_when_a_restart_was_missed() -> None:
    state = fold([*RUNNING, event(JobFailed, attempt=3, reason="Error")])
    assert (state.status, state.attempt) == (Status.FAILED, 3)


def test_metrics_keep_min_max_and_latest_over_attempts() -> None:
    values = [3.0, float("nan"), 1.0, 2.0]
    state = fold([*RUNNING, *(event(MetricReported, values={"loss": v}, position=i) for i, v in enumerate(values))])
    state = fold([event(JobRestarting, attempt=2), event(MetricReported, attempt=2, values={"loss": 2.5})], state)
    late = event(MetricReported, attempt=1, position=9, values={"loss": 9.0})
    summary = fold([late], state).metrics["loss"]
    assert (summary.min, summary.max, summary.latest) == (1.0, 9.0, 2.5)


def test_metric_names_without_end_are_bounded() -> None:
    state = fold([submitted(), event(MetricReported, values={f"m{i}": 1.0 for i in range(5000)})])
    assert len(state.metrics) == 1000


def test_progress_keeps_what_a_later_report_leaves_out() -> None:
    reports = [{"percent": 50}, {"message": "saving"}, {"remaining": 9}]
    state = fold([*RUNNING, *(event(ProgressReported, position=i, **report) for i, report in enumerate(reports))])
    assert state.progress == Progress(percent=50.0, remaining=9.0, message="saving")


def test_an_event_of_a_newer_version_moves_the_cursor_only() -> None:
    state = fold(RUNNING)
    after = fold([event(UnknownEvent, type_name="JobTeleported", raw={}, cursor=5)], state)
    assert after == dataclasses.replace(state, cursor=5)


# ---------------------------------------------------------------- any history

_attempts = st.integers(1, 3)
_numbers = st.floats(allow_nan=True) | st.integers(-5, 5)
_events = st.one_of(
    st.builds(lambda a, r: event(JobPending, attempt=a, reason=r), _attempts, st.sampled_from(["Queued", "ImagePull"])),
    st.builds(lambda a, n: event(JobStarted, attempt=a, ranks=ranks(n)), _attempts, st.integers(0, 3)),
    st.builds(
        lambda a, r, c: event(RankExited, attempt=a, node=0, rank=r, exit_code=c),
        _attempts,
        st.integers(0, 3),
        st.none() | st.integers(-9, 2),
    ),
    st.builds(
        lambda a, s: event(StepChanged, attempt=a, step="node-0", status=s),
        _attempts,
        st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
    ),
    st.builds(lambda a, c: event(StopRequested, attempt=a, cause=c), _attempts, st.sampled_from(["cancel", "suspend"])),
    *(st.builds(lambda a, k=kind: event(k, attempt=a), _attempts) for kind in (JobSuspended, JobResumed, JobCompleted)),
    st.builds(lambda a: event(JobRestarting, attempt=a), _attempts),
    st.builds(lambda a: event(JobFailed, attempt=a, reason="Error"), _attempts),
    st.builds(lambda a, v: event(MetricReported, attempt=a, values={"m": v}), _attempts, _numbers),
    st.builds(lambda a, p: event(ProgressReported, attempt=a, percent=p), _attempts, st.none() | _numbers),
    st.builds(lambda a: event(JobWarning, attempt=a, reason="w", message="m"), _attempts),
    st.just(event(JobDeleted)),
)


@given(st.lists(_events, max_size=25))
def test_in_any_history_ends_are_final_attempts_grow_and_states_survive_json(history: list[Event]) -> None:
    state = reduce(None, submitted())
    for each in history:
        if not is_news(state, each):
            with pytest.raises(TransitionError):
                reduce(state, each)
            continue
        try:
            after = reduce(state, each)
        except TransitionError:
            # Only what begins an attempt that nobody announced, or a resume of a job that was not suspended.
            assert each.attempt > state.attempt
            continue
        assert after.attempt >= state.attempt
        assert state.status not in TERMINAL or after.status is state.status
        text = json.dumps(after.to_dict(), allow_nan=False)
        # repr: nan is unequal to itself.
        assert repr(JobState.from_dict(json.loads(text))) == repr(dataclasses.replace(after))
        state = after


@given(st.lists(_events, max_size=15), st.data())
def test_delivering_an_end_again_anywhere_later_changes_nothing(history: list[Event], data: st.DataObject) -> None:
    state = fold([*RUNNING, event(JobFailed, reason="Cancelled", attempt=4)])
    position = data.draw(st.integers(0, len(history)))
    after = fold([*history[:position], event(JobCompleted, attempt=4), *history[position:]], state)
    assert (after.status, after.reason, after.finished) == (Status.FAILED, "Cancelled", state.finished)
