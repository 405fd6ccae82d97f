"""Replaying what was recorded."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kfasync.errors import JournalError, TransitionError
from kfasync.events import JobCompleted, JobStarted, StopRequested
from kfasync.state import JobState, Journal, reduce, replay, verify
from kfasync.state._store import Store
from tests.state.happenings import event, metric, submitted
from tests.state.test_lifecycle import _events

pytestmark = pytest.mark.anyio


async def test_every_prefix_replays_to_the_recorded_state(journal: Journal, path: Path) -> None:
    await journal.append([submitted(), submitted("other"), event(JobStarted), metric(0), metric(0, "other")])
    await journal.append([event(StopRequested, cause="cancel"), event(JobCompleted)])
    assert verify(path) == 7


async def test_replaying_any_prefix_gives_the_hashes_of_the_whole(journal: Journal) -> None:
    await journal.append([submitted(), event(JobStarted), *(metric(n) for n in range(5)), event(JobCompleted)])
    events = await journal.events()
    whole = list(replay(events))
    assert [cursor for cursor, _ in whole] == list(range(1, 9))
    assert len({digest for _, digest in whole}) == 8
    for end in range(len(events)):
        assert list(replay(events[:end])) == whole[:end]


async def test_the_state_after_each_event_is_the_fold_of_the_events_before(journal: Journal) -> None:
    state: JobState | None = None
    for each in (submitted(), event(JobStarted), metric(0), event(JobCompleted)):
        [recorded] = await journal.append([each])
        assert recorded is not None
        state = reduce(state, recorded)
        assert await journal.job_by_uid("uid-demo") == state


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE events SET body = replace(body, '1.0', '2.0') WHERE type = 'MetricReported'",
        "UPDATE jobs SET state = replace(state, 'Running', 'Created')",
        "UPDATE events SET attempt = 2 WHERE type = 'JobCompleted'",
    ],
)
async def test_a_journal_that_does_not_replay_is_found_out(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "damaged.sqlite3"
    journal = await Journal.open(path)
    await journal.append([submitted(), event(JobStarted), metric(0), submitted("b"), event(JobCompleted, "b")])
    await journal.aclose()
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(damage).rowcount
    with pytest.raises(JournalError, match=r"replays to another|are not those"):
        verify(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(history=st.lists(_events, max_size=15), again=st.integers(0, 15))
def test_any_history_recorded_in_any_portions_replays(tmp_path: Path, history: list[Any], again: int) -> None:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite3"
    with closing(Store(path)) as store:
        with store.writing():
            store.append([submitted(uid="u1")])
        for each in [*history, *history[again:]]:
            try:
                with store.writing():
                    store.append([each])
            except TransitionError:
                continue
        keys = [recorded.key for recorded in store.events(0, None, None, 1000)]
    assert len(keys) == len(set(keys)) == verify(path)
