"""The journal within one process: recording, reading, waiting, closing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest

from kfasync.errors import IncompatibleVersionError, JobExistsError, JournalError, TransitionError
from kfasync.events import (
    Gap,
    JobCompleted,
    JobDeleted,
    JobPending,
    JobResumed,
    JobStarted,
    JobSubmitted,
    MetricReported,
    RankInfo,
)
from kfasync.state import Journal, Status
from tests.state.conftest import Opener
from tests.state.happenings import event, metric, submitted

pytestmark = pytest.mark.anyio


# ---------------------------------------------------------------- recording


async def test_recorded_events_get_growing_cursors_and_come_back_equal(journal: Journal) -> None:
    sent = [submitted(), event(JobStarted, ranks=(RankInfo(node=0, rank=0, devices=("0",)),)), metric(0, step=1.0)]
    recorded = await journal.append(sent)
    assert recorded == sent
    assert [each.cursor for each in recorded if each] == [1, 2, 3]
    assert await journal.events() == sent
    assert await journal.head() == 3


async def test_the_state_is_folded_with_the_events(journal: Journal) -> None:
    await journal.append([submitted(), event(JobStarted)])
    state = await journal.job("here", "demo")
    assert state is not None
    assert (state.status, state.cursor, state.job_spec.name) == (Status.RUNNING, 2, "demo")


async def test_recording_an_event_again_is_a_no_op(journal: Journal) -> None:
    await journal.append([submitted(), metric(0)])
    assert await journal.append([submitted(), metric(0, values={"loss": 9.0}), metric(1)]) == [None, None, metric(1)]
    assert await journal.head() == 3


async def test_what_can_not_matter_any_more_is_not_recorded(journal: Journal) -> None:
    await journal.append([submitted(), event(JobCompleted)])
    assert await journal.append([event(JobStarted), event(JobCompleted, attempt=2)]) == [None, None]


async def test_a_group_is_recorded_entirely_or_not_at_all(journal: Journal) -> None:
    await journal.append([submitted(), event(JobStarted)])
    with pytest.raises(TransitionError) as raised:
        await journal.append([metric(0), event(JobResumed, attempt=2)])
    assert any("JobStarted" in note for note in raised.value.__notes__)
    assert await journal.head() == 2
    assert await journal.append([metric(0)]) == [metric(0)]


async def test_a_wrong_group_does_not_harm_those_that_share_its_transaction(journal: Journal) -> None:
    await journal.append([submitted("good"), submitted("bad"), event(JobStarted, "bad")])
    outcomes = await asyncio.gather(
        journal.append([metric(0, "good")]),
        journal.append([metric(0, "bad"), event(JobResumed, "bad", attempt=2)]),
        journal.append([event(JobPending, "good", reason=object())]),
        journal.append([metric(5, "good", time=float("nan"))]),
        journal.append([metric(1, "good")]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [list, TransitionError, TypeError, JournalError, list]
    assert await journal.events(since=3) == [metric(0, "good"), metric(1, "good")]


async def test_what_queues_up_is_committed_together(journal: Journal) -> None:
    await journal.append([submitted()])
    start = time.perf_counter()
    for position in range(100):
        await journal.append([metric(position)])
    alone = (time.perf_counter() - start) / 100
    start = time.perf_counter()
    await asyncio.gather(*(journal.append([metric(position)]) for position in range(100, 1100)))
    together = (time.perf_counter() - start) / 1000
    # A fifth here: with a transaction each, and each of them told to other processes, it would be as much as alone.
    assert together < alone
    assert await journal.head() == 1101


async def test_one_append_answers_fast(journal: Journal) -> None:
    await journal.append([submitted()])
    taken = []
    for position in range(100):
        start = time.perf_counter()
        await journal.append([metric(position)])
        taken.append(time.perf_counter() - start)
    # 0.2 ms here; benchmarks measure it, this only notices a disaster such as an fsync.
    assert sorted(taken)[50] < 0.005


async def test_numbers_without_an_end_survive(journal: Journal) -> None:
    await journal.append([submitted(), metric(0, values={"a": float("inf"), "b": float("nan"), "c": 3})])
    [_, told] = await journal.events()
    assert isinstance(told, MetricReported)
    assert repr(dict(told.values)) == "{'a': inf, 'b': nan, 'c': 3}"


async def test_hostile_text_comes_back_byte_for_byte(journal: Journal) -> None:
    spec = {"name": "demo", "args": ["'; DROP TABLE jobs; --", "\x00\n$(rm -rf)", "\udcff☃", "x" * 100_000]}
    await journal.append([submitted(spec=spec)])
    [told] = await journal.events()
    assert isinstance(told, JobSubmitted)
    assert told.spec == spec
    state = await journal.job("here", "demo")
    assert state is not None
    assert state.spec == spec


async def test_an_event_of_a_whole_place_needs_no_job(journal: Journal) -> None:
    gaps = [Gap(place=place, job="", uid="", what="watch", time=1.0) for place in ("here", "there")]
    assert await journal.append([*gaps, gaps[0]]) == [*gaps, None]
    assert await journal.events(place="there") == [gaps[1]]


# ---------------------------------------------------------------- names


async def test_the_same_name_and_digest_is_the_same_job(journal: Journal) -> None:
    await journal.append([submitted()])
    assert await journal.append([submitted(uid="other")]) == [None]
    assert await journal.job_by_uid("other") is None


async def test_a_name_with_another_digest_is_refused(journal: Journal) -> None:
    await journal.append([submitted()])
    with pytest.raises(JobExistsError, match="demo"):
        await journal.append([submitted(uid="other", digest="e")])


async def test_places_have_names_of_their_own(journal: Journal) -> None:
    elsewhere = submitted(place="there", uid="other", digest="e")
    assert await journal.append([submitted(), elsewhere]) == [submitted(), elsewhere]


async def test_a_deleted_jobs_name_is_free_again(journal: Journal) -> None:
    again = submitted(uid="other", digest="e")
    assert await journal.append([submitted(), event(JobDeleted), again]) == [submitted(), event(JobDeleted), again]
    job = await journal.job("here", "demo")
    assert job is not None
    assert job.uid == "other"
    gone = await journal.job_by_uid("uid-demo")
    assert gone is not None
    assert gone.deleted


async def test_of_many_submits_of_one_name_at_once_one_wins(journal: Journal) -> None:
    outcomes = await asyncio.gather(*(journal.append([submitted(uid=f"u{n}")]) for n in range(20)))
    assert [outcome == [None] for outcome in outcomes].count(False) == 1


# ---------------------------------------------------------------- reading


async def test_jobs_are_listed_oldest_first_without_deleted_ones(journal: Journal) -> None:
    await journal.append([submitted(name) for name in "cab"])
    await journal.append([submitted("far", place="there"), event(JobDeleted, "a"), event(JobCompleted, "c")])
    assert [job.name for job in await journal.jobs()] == ["c", "b", "far"]
    assert [job.name for job in await journal.jobs("here")] == ["c", "b"]
    assert [job.name for job in await journal.jobs("here", alive_only=True)] == ["b"]


async def test_events_are_read_in_pages_by_cursor(journal: Journal) -> None:
    await journal.append([submitted(), submitted("other"), *(metric(n) for n in range(5))])
    page = await journal.events(since=3, uid="uid-demo", limit=2)
    assert [each.cursor for each in page] == [4, 5]
    assert [each.cursor for each in await journal.events(since=page[-1].cursor)] == [6, 7]


async def test_forgetting_drops_deleted_jobs_only_and_no_cursor_is_used_twice(journal: Journal) -> None:
    await journal.append([submitted(), submitted("gone"), event(JobDeleted, "gone")])
    await journal.forget(["uid-gone", "uid-demo", "unknown"])
    assert await journal.events() == [submitted()]
    assert await journal.job_by_uid("uid-gone") is None
    assert await journal.head() == 3
    [recorded] = await journal.append([metric(0)])
    assert recorded is not None
    assert recorded.cursor == 4


async def test_deleted_names_the_jobs_that_were_deleted_long_ago(journal: Journal) -> None:
    await journal.append([submitted(), submitted("old"), submitted("new")])
    await journal.append([event(JobDeleted, "old", time=20.0), event(JobDeleted, "new", time=30.0)])
    assert await journal.deleted(before=20.0) == []
    assert await journal.deleted(before=30.0) == ["uid-old"]


async def test_a_journal_opened_again_tells_the_same(journal: Journal, open_journal: Opener) -> None:
    await journal.append([submitted(), event(JobStarted), metric(0)])
    before = await journal.jobs()
    await journal.aclose()
    assert await (await open_journal()).jobs() == before


async def test_two_journals_of_one_file_see_each_others_states(journal: Journal, open_journal: Opener) -> None:
    other = await open_journal()
    await journal.append([submitted()])
    await other.append([event(JobStarted)])
    await journal.append([metric(0)])
    await other.append([event(JobCompleted)])
    states = [await each.job("here", "demo") for each in (journal, other)]
    assert states[0] == states[1]
    assert states[0] is not None
    assert states[0].status is Status.COMPLETE


async def test_a_state_that_was_taken_back_is_not_remembered(journal: Journal, open_journal: Opener) -> None:
    other = await open_journal()
    await journal.append([submitted(), event(JobStarted)])
    with pytest.raises(TransitionError):
        await journal.append([metric(0, values={"loss": 9.0}), event(JobResumed, attempt=2)])
    # It gets the cursor that was taken back.
    await other.append([metric(1)])
    assert await journal.job("here", "demo") == await other.job("here", "demo")


async def test_a_reader_reads_and_may_not_write(journal: Journal, open_journal: Opener) -> None:
    await journal.append([submitted()])
    reader = await open_journal(read_only=True)
    assert await reader.head() == 1
    with pytest.raises(JournalError, match="read only"):
        await reader.append([metric(0)])
    waiter = asyncio.create_task(reader.changed(1))
    await journal.append([metric(0)])
    assert await waiter == 2


# ---------------------------------------------------------------- waiting


async def test_changed_returns_at_once_when_there_is_more(journal: Journal) -> None:
    await journal.append([submitted(), metric(0)])
    assert await journal.changed(0) == 2


async def test_changed_sees_what_others_recorded_before_it_watched(journal: Journal, open_journal: Opener) -> None:
    await (await open_journal()).append([submitted()])
    assert await journal.changed(0) == 1


async def test_changed_wakes_every_waiter_of_every_loop(journal: Journal, open_journal: Opener) -> None:
    await journal.append([submitted()])
    other = await open_journal()
    waiting, found = threading.Barrier(2), []

    async def elsewhere() -> None:
        waiter = asyncio.create_task(journal.changed(1))
        asyncio.get_running_loop().call_soon(waiting.wait)
        found.append(await waiter)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    waiters = [asyncio.create_task(each.changed(1)) for each in (journal, other) for _ in range(5)]
    await asyncio.to_thread(waiting.wait)
    await journal.append([metric(0)])
    assert set(await asyncio.gather(*waiters)) == {2}
    await asyncio.to_thread(thread.join)
    assert found == [2]


async def test_changed_does_not_return_for_what_is_known_already(journal: Journal, open_journal: Opener) -> None:
    await journal.append([submitted(), metric(0)])
    waiter = asyncio.create_task((await open_journal()).changed(2))
    await journal.append([metric(0)])
    assert await journal.job("here", "demo") is not None
    assert not waiter.done()
    await journal.append([metric(1)])
    assert await waiter == 3


async def test_follow_brings_the_events_with_the_news(journal: Journal, open_journal: Opener) -> None:
    other = await open_journal()
    await journal.append([submitted(), metric(0)])
    head, page = await other.follow(0, place="here", limit=1)
    assert (head, [event.cursor for event in page]) == (2, [1])
    waiter = asyncio.create_task(other.follow(2, place="here", limit=10))
    watching = asyncio.create_task(other.changed(2))
    await asyncio.wait([waiter, watching], timeout=0)
    await journal.append([metric(1)])
    head, page = await waiter
    assert (head, [event.cursor for event in page]) == (3, [3])
    assert await watching == 3
    assert await other.follow(2, place="elsewhere", limit=10) == (3, [])


async def test_a_follower_that_could_not_read_looks_again(journal: Journal, open_journal: Opener, path: Path) -> None:
    await journal.append([submitted()])
    other = await open_journal()
    assert (await other.follow(0, place="here", limit=10))[0] == 1
    await journal.append([metric(0)])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE events RENAME TO hidden")
        with pytest.raises(JournalError, match="no such table"):
            await other.follow(1, place="here", limit=10)
        connection.execute("ALTER TABLE hidden RENAME TO events")
    async with asyncio.timeout(10):
        assert (await other.follow(1, place="here", limit=10))[0] == 2


async def test_a_cancelled_waiter_takes_no_news_from_the_others(journal: Journal, open_journal: Opener) -> None:
    other = await open_journal()
    await other.append([submitted()])
    for position in range(50):
        head = await other.head()
        waiters = [asyncio.create_task(other.changed(head)) for _ in range(3)]
        await asyncio.wait(waiters, timeout=0)
        await journal.append([metric(position)])
        waiters[position % 3].cancel()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert outcomes.count(head + 1) >= 2


@pytest.mark.parametrize("patience", [0, 1e-6, 1e-4, 3e-4, 1e-3])
async def test_an_append_cut_by_a_timeout_can_be_repeated(journal: Journal, patience: float) -> None:
    await journal.append([submitted()])
    for position in range(20):
        try:
            await asyncio.wait_for(journal.append([metric(position)]), patience)
        except TimeoutError:
            await journal.append([metric(position)])
    told = await journal.events(since=1)
    assert sorted(each.position for each in told if isinstance(each, MetricReported)) == list(range(20))


# The shortest patience keeps the loop so busy that the journal's thread hardly runs: seconds, and minutes when traced.
@pytest.mark.parametrize("patience", [pytest.param(1e-6, marks=pytest.mark.slow), 1e-4, 1e-3])
async def test_a_follower_that_is_cut_again_and_again_misses_nothing(
    journal: Journal, open_journal: Opener, patience: float
) -> None:
    reader = await open_journal()
    seen: list[int] = []

    async def follow() -> None:
        cursor = 0
        while cursor < 200:
            try:
                await asyncio.wait_for(reader.changed(cursor), patience)
            except TimeoutError:
                continue
            seen.extend(each.cursor for each in await reader.events(cursor))
            cursor = seen[-1]

    follower = asyncio.create_task(follow())
    await journal.append([submitted()])
    for position in range(199):
        await journal.append([metric(position)])
    await follower
    assert seen == list(range(1, 201))


# ---------------------------------------------------------------- closing, forking, files


async def test_closing_twice_is_safe_and_later_use_says_so(journal: Journal) -> None:
    await asyncio.gather(journal.aclose(), journal.aclose())
    await journal.aclose()
    with pytest.raises(JournalError, match="closed"):
        await journal.append([submitted()])
    with pytest.raises(JournalError, match="closed"):
        await journal.changed(0)


async def test_closing_finishes_what_was_asked_for(path: Path, open_journal: Opener) -> None:
    journal = await open_journal()
    appended = [asyncio.create_task(journal.append([submitted(f"job-{n}")])) for n in range(50)]
    await asyncio.wait(appended, timeout=0)
    await journal.aclose()
    assert all(await asyncio.gather(*appended))
    assert await (await open_journal()).head() == 50


async def test_closing_ends_those_who_wait(journal: Journal) -> None:
    waiter = asyncio.create_task(journal.changed(0))
    await asyncio.wait([waiter], timeout=0)
    await journal.aclose()
    with pytest.raises(JournalError, match="closed"):
        await waiter


async def test_closing_leaks_neither_thread_nor_descriptor(path: Path) -> None:
    async def use() -> None:
        journal = await Journal.open(path)
        await journal.append([submitted()])
        await journal.changed(0)
        await journal.aclose()

    await use()
    before = set(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        await use()
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before


async def test_a_loop_that_is_gone_leaks_no_descriptor(journal: Journal) -> None:
    await journal.append([submitted()])
    await asyncio.to_thread(asyncio.run, journal.changed(0))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await asyncio.to_thread(asyncio.run, journal.changed(0))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_forked_child_is_refused_and_harms_nothing(journal: Journal) -> None:
    await journal.append([submitted()])

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(journal.append([metric(0)]))
        except JournalError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    await asyncio.to_thread(os.waitpid, pid, 0)
    assert "before a fork" in os.read(reader, 1000).decode()
    os.close(reader)
    assert await journal.append([metric(0)]) == [metric(0)]


async def test_files_are_for_their_owner_only(journal: Journal, path: Path) -> None:
    await journal.append([submitted()])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


async def test_a_file_that_is_no_journal_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    before = threading.active_count()
    with pytest.raises(JournalError, match="not a journal"):
        await Journal.open(path)
    assert threading.active_count() == before
    path.unlink()


async def test_reading_where_there_is_nothing_creates_nothing(path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        await Journal.open(path, read_only=True)
    assert not path.parent.exists()


async def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"file.*journal"):
        await Journal.open(tmp_path / "file" / "journal.sqlite3")


async def test_a_journal_migrated_under_an_open_one_is_not_written(journal: Journal, path: Path) -> None:
    await journal.append([submitted()])
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(IncompatibleVersionError, match="newer kfasync"):
        await journal.append([metric(0)])
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert await journal.append([metric(0)]) == [metric(0)]


async def test_a_recorded_event_keeps_what_was_sent(journal: Journal) -> None:
    sent = submitted()
    [recorded] = await journal.append([sent])
    assert recorded is not None
    assert dataclasses.replace(recorded, cursor=0) == sent
    assert sent.cursor == 0
