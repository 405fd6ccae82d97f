from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from kfasync import events
from kfasync.events import (
    Event,
    JobFailed,
    JobStarted,
    MetricReported,
    RankInfo,
    TrialEnded,
    TrialReported,
    TrialStarted,
    UnknownEvent,
)

HEADER = {"place": "p", "job": "j", "uid": "u", "attempt": 2, "time": 1.5, "cursor": 7}


def through_json(event: Event) -> Event:
    kind, body = events.encode(event)
    return events.decode(kind, json.loads(json.dumps(body, sort_keys=True)), **HEADER)


def test_ranks_and_lines_come_back_as_they_were() -> None:
    rank = RankInfo(node=1, rank=3, local_rank=1, pid=42, start_time=99, boot_id="b", devices=("0", "1"))
    started = JobStarted(**HEADER, ranks=(rank,))
    failed = JobFailed(**HEADER, reason="Error", exit_code=-9, last_lines=("a", "b"))
    assert through_json(started) == started
    assert through_json(failed) == failed


@given(st.dictionaries(st.text(), st.floats(), max_size=5))
def test_every_number_survives_nan_and_infinities_included(values: dict[str, float]) -> None:
    back = through_json(MetricReported(**HEADER, values=values))
    assert isinstance(back, MetricReported)
    assert back.values.keys() == values.keys()
    for name, value in values.items():
        assert back.values[name] == value or (math.isnan(back.values[name]) and math.isnan(value))


@given(
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()),
    st.floats(allow_nan=False),
)
def test_what_trials_try_and_achieve_comes_back_as_it_was(parameters: dict[str, object], value: float) -> None:
    trial = TrialStarted(**HEADER, number=3, trial="t", parameters=parameters, notes={"a": 1})
    back = through_json(trial)
    assert back == trial
    assert isinstance(back, TrialStarted)
    assert list(back.parameters) == list(parameters)
    told = TrialReported(**HEADER, number=3, step=1.0, value=value, position=0)
    assert through_json(told) == told
    ended = TrialEnded(**HEADER, number=3, outcome="complete", metrics={"loss": (value, math.inf, 0.0)})
    assert through_json(ended) == ended


def test_a_parameter_that_is_nan_stays_one_and_is_no_text() -> None:
    back = through_json(TrialStarted(**HEADER, number=0, trial="t", parameters={"x": math.nan, "y": "nan"}))
    assert isinstance(back, TrialStarted)
    assert math.isnan(back.parameters["x"])
    assert back.parameters["y"] == "nan"


def test_an_event_of_a_newer_version_is_kept_as_it_is() -> None:
    newer = events.decode("JobTeleported", {"to": "mars"}, **HEADER)
    assert isinstance(newer, UnknownEvent)
    assert events.encode(newer) == ("JobTeleported", {"to": "mars"})


def test_a_field_of_a_newer_version_is_dropped() -> None:
    kind, body = events.encode(JobStarted(**HEADER))
    assert events.decode(kind, {**body, "colour": "red"}, **HEADER) == JobStarted(**HEADER)


def test_an_end_has_one_key_whoever_tells_it() -> None:
    keys = {event.key for event in (JobFailed(**HEADER, reason="Lost"), events.JobCompleted(**HEADER))}
    assert keys == {"end"}
