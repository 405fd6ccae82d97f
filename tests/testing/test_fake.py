"""FakeBackend alone, and under a real engine and journal."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from kfasync import payload as payloads
from kfasync.backends.base import Submission, Synced
from kfasync.engine import Engine
from kfasync.errors import ClientClosedError, JobFailedError, ResultError
from kfasync.events import Event, Gap, JobCompleted, JobFailed, JobStarted, RankExited, StopRequested
from kfasync.jobs import JobSpec, RestartPolicy
from kfasync.state import Status
from kfasync.testing import (
    Crashes,
    CrashPoint,
    FakeBackend,
    FakeBackendConfig,
    FakeOutOfMemory,
    FakeRank,
    FakeScript,
    FakeWorld,
    plays,
)
from kfasync.testing.replay import replaying

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> AsyncIterator[Path]:
    with replaying(tmp_path):
        yield tmp_path / "journal.sqlite3"


@pytest.fixture
def world(tmp_path: Path) -> FakeWorld:
    return FakeWorld(files=tmp_path / "files")


@asynccontextmanager
async def watching(fake: FakeBackend) -> AsyncIterator[list[Event]]:
    """The live events of a place without jobs, as a list that grows while time is advanced."""
    import anyio

    seen: list[Event] = []
    synced = anyio.Event()

    async def read() -> None:
        async with aclosing(fake.watch()) as items:
            async for item in items:
                synced.set()
                if not isinstance(item, Synced):
                    seen.append(item)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await synced.wait()
        yield seen
        group.cancel_scope.cancel()


def create(world: FakeWorld, run: object = None, *, name: str = "demo", **spec: object) -> str:
    if run is not None:
        world.script(name, FakeScript(run=run))  # type: ignore[arg-type]
    world.create(Submission(uid=f"uid-{name}", spec=JobSpec(name=name, **spec), payload=payloads.none()))  # type: ignore[arg-type]
    return f"uid-{name}"


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events if type(event).__name__ != "StepChanged"]


def only(events: list[Event], kind: type[Event]) -> Event:
    [event] = [event for event in events if isinstance(event, kind)]
    return event


async def test_a_job_runs_for_as_long_as_its_script_says(world: FakeWorld) -> None:
    def run(rank: FakeRank):
        yield 10
        return rank.rank

    async with watching(FakeBackend(world)) as seen:
        uid = create(world, run)
        await world.advance(9.9)
        assert kinds(seen) == ["JobStarted"]
        await world.advance(0.1)
        assert kinds(seen) == ["JobStarted", "RankExited", "JobCompleted"]
        assert world.job(uid).results == {0: 0}


async def test_a_plain_script_ends_at_once_with_its_value(world: FakeWorld) -> None:
    uid = create(world, lambda rank: "value")
    await world.advance(0)
    assert world.job(uid).results == {0: "value"}


async def test_a_raising_rank_fails_the_job_and_ends_the_others(world: FakeWorld) -> None:
    def run(rank: FakeRank):
        rank.print("working")
        yield 5
        if rank.rank == 1:
            raise ValueError("diverged")
        yield math.inf

    async with watching(FakeBackend(world)) as seen:
        create(world, run, num_nodes=3)
        await world.advance(5)
    failed = only(seen, JobFailed)
    assert (failed.reason, failed.node, failed.rank, failed.exit_code) == ("Error", 1, 1, 1)
    assert failed.exception == "ValueError: diverged"
    assert failed.last_lines[0] == "working"
    assert 'raise ValueError("diverged")' in failed.traceback
    assert "_job.py" not in failed.traceback
    exits = {event.rank: event.exit_code for event in seen if isinstance(event, RankExited)}
    assert exits == {0: -15, 1: 1, 2: -15}


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [(SystemExit(3), 3, "Error"), (SystemExit("no"), 1, "Error"), (FakeOutOfMemory(99), -9, "OOMKilled")],
)
async def test_an_exit_and_an_oom_kill_are_told_apart(
    world: FakeWorld, error: BaseException, code: int, reason: str
) -> None:
    def run(rank: FakeRank) -> None:
        raise error

    async with watching(FakeBackend(world)) as seen:
        create(world, run)
        await world.advance(0)
    failed = only(seen, JobFailed)
    assert (failed.exit_code, failed.reason) == (code, reason)


async def test_exit_zero_is_success(world: FakeWorld) -> None:
    def run(rank: FakeRank) -> None:
        raise SystemExit

    async with watching(FakeBackend(world)) as seen:
        create(world, run)
        await world.advance(0)
    assert kinds(seen)[-1] == "JobCompleted"


async def test_a_pending_job_never_starts_until_its_start_deadline(world: FakeWorld) -> None:
    world.script("demo", FakeScript(pending="Unschedulable", message="no node has 8 GPUs"))
    async with watching(FakeBackend(world)) as seen:
        create(world, start_deadline=60.0)
        await world.advance(59)
        assert kinds(seen) == ["JobPending"]
        await world.advance(1)
    assert only(seen, JobFailed).reason == "StartDeadlineExceeded"


async def test_sigterm_ends_a_rank_that_does_not_look_at_should_stop(world: FakeWorld) -> None:
    def run(rank: FakeRank):
        yield math.inf

    async with watching(FakeBackend(world)) as seen:
        uid = create(world, run)
        await world.advance(0)
        world.job(uid).stop("cancel")
        await world.advance(0)
    assert kinds(seen) == ["JobStarted", "StopRequested", "RankExited", "JobFailed"]
    assert only(seen, RankExited).exit_code == -15
    assert only(seen, JobFailed).reason == "Cancelled"


async def test_a_rank_that_waits_for_the_stop_goes_on_when_it_comes(world: FakeWorld) -> None:
    def run(rank: FakeRank):
        yield
        rank.print("checkpoint")
        return "saved"

    uid = create(world, run)
    await world.advance(100)
    world.job(uid).stop("suspend")
    await world.advance(0)
    assert [line.text for line in world.job(uid).lines] == ["checkpoint"]
    assert world.job(uid).results == {0: "saved"}


@pytest.mark.parametrize("ignores", [True, False])
async def test_sigkill_follows_when_the_grace_is_over(world: FakeWorld, ignores: bool) -> None:
    def run(rank: FakeRank):
        if ignores:
            rank.ignore_sigterm()
        else:
            rank.should_stop()
        yield math.inf

    async with watching(FakeBackend(world)) as seen:
        uid = create(world, run, grace=7.0)
        await world.advance(0)
        world.job(uid).stop("cancel")
        await world.advance(6.9)
        assert kinds(seen) == ["JobStarted", "StopRequested"]
        await world.advance(0.1)
    assert only(seen, RankExited).exit_code == -9


async def test_a_suspended_job_resumes_as_a_new_attempt(world: FakeWorld) -> None:
    async with watching(FakeBackend(world)) as seen:
        uid = create(world, lambda rank: (yield math.inf))
        await world.advance(0)
        for _ in range(2):
            world.job(uid).stop("suspend")
        await world.advance(0)
        for _ in range(2):
            world.job(uid).resume()
        await world.advance(0)
    assert kinds(seen) == ["JobStarted", "StopRequested", "RankExited", "JobSuspended", "JobResumed", "JobStarted"]
    assert [event.attempt for event in seen if isinstance(event, JobStarted)] == [1, 2]


async def test_a_suspended_job_can_be_cancelled(world: FakeWorld) -> None:
    async with watching(FakeBackend(world)) as seen:
        uid = create(world, lambda rank: (yield math.inf))
        await world.advance(0)
        world.job(uid).stop("suspend")
        world.job(uid).stop("cancel")
        await world.advance(0)
    assert only(seen, JobFailed).reason == "Cancelled"


async def test_a_failed_group_restarts_after_its_backoff(world: FakeWorld) -> None:
    def run(rank: FakeRank) -> None:
        if rank.attempt == 1:
            raise RuntimeError("once")

    async with watching(FakeBackend(world)) as seen:
        create(world, run, num_nodes=2, restart=RestartPolicy(max_restarts=1, backoff=30.0))
        await world.advance(29)
        assert kinds(seen)[-1] == "JobRestarting"
        await world.advance(1)
    assert kinds(seen)[-1] == "JobCompleted"
    assert seen[-1].attempt == 2


async def test_the_active_deadline_counts_over_restarts(world: FakeWorld) -> None:
    def run(rank: FakeRank):
        if rank.attempt == 1:
            raise RuntimeError("once")
        yield math.inf

    async with watching(FakeBackend(world)) as seen:
        create(world, run, active_deadline=10.0, restart=RestartPolicy(max_restarts=1, backoff=1.0))
        await world.advance(10)
    assert only(seen, StopRequested).cause == "deadline"
    assert only(seen, JobFailed).reason == "DeadlineExceeded"


async def test_a_job_is_deleted_when_its_time_to_live_is_over(world: FakeWorld) -> None:
    async with watching(FakeBackend(world)) as seen:
        create(world, ttl=60.0)
        await world.advance(59)
        assert world.jobs()
        await world.advance(1)
    assert kinds(seen)[-1] == "JobDeleted"
    assert not world.jobs()


async def test_each_stream_of_each_rank_counts_its_own_bytes(world: FakeWorld) -> None:
    def run(rank: FakeRank) -> None:
        rank.print("äb\nc")
        rank.print("err", stream="stderr")
        rank.print("d")

    uid = create(world, run, num_nodes=2)
    await world.advance(0)
    at = [(line.stream, line.rank, line.text, line.position) for line in world.job(uid).lines]
    one = [("stdout", 0, "äb", 0), ("stdout", 0, "c", 4), ("stderr", 0, "err", 0), ("stdout", 0, "d", 6)]
    assert at == [*one, *((stream, 1, text, position) for stream, _, text, position in one)]


# --- faults between the place and a client ---


async def test_a_late_event_arrives_behind_what_happened_meanwhile(world: FakeWorld) -> None:
    fake = FakeBackend(world)
    async with watching(fake) as seen:
        fake.inject.late(JobStarted, 5)
        create(world)
        await fake.advance(4)
        assert kinds(seen) == ["RankExited", "JobCompleted"]
        await fake.advance(1)
        assert kinds(seen) == ["RankExited", "JobCompleted", "JobStarted"]


async def test_a_repeated_event_arrives_twice(world: FakeWorld) -> None:
    fake = FakeBackend(world)
    async with watching(fake) as seen:
        fake.inject.repeated(JobCompleted)
        create(world)
        await fake.advance(0)
    assert kinds(seen)[-2:] == ["JobCompleted", "JobCompleted"]


async def test_a_reordered_event_arrives_behind_the_next_one(world: FakeWorld) -> None:
    fake = FakeBackend(world)
    async with watching(fake) as seen:
        fake.inject.reordered(JobStarted)
        create(world)
        await fake.advance(0)
    assert kinds(seen) == ["RankExited", "JobStarted", "JobCompleted"]


async def test_a_reordered_last_event_still_arrives(world: FakeWorld) -> None:
    fake = FakeBackend(world)
    async with watching(fake) as seen:
        fake.inject.reordered(JobCompleted)
        create(world)
        await fake.advance(0)
        assert "JobCompleted" not in kinds(seen)
        await fake.advance(5)
    assert kinds(seen)[-1] == "JobCompleted"


async def test_a_lost_end_is_found_by_the_second_look(world: FakeWorld) -> None:
    fake = FakeBackend(world)
    async with watching(fake) as seen:
        fake.inject.lost(JobCompleted)
        create(world)
        await fake.advance(4)
        assert "JobCompleted" not in kinds(seen)
        await fake.advance(1)
    assert kinds(seen)[-1] == "JobCompleted"


async def test_what_happened_in_an_outage_is_told_behind_a_gap(world: FakeWorld) -> None:
    def run(rank: FakeRank):
        yield 10
        if rank.attempt == 1:
            raise RuntimeError("once")
        yield math.inf

    fake = FakeBackend(world)
    async with watching(fake) as seen:
        create(world, run, restart=RestartPolicy(max_restarts=1, backoff=1.0))
        await fake.advance(1)
        fake.inject.cut(outage=60)
        await fake.advance(60)
    assert kinds(seen) == ["JobStarted", "Gap", "JobRestarting", "JobStarted"]
    assert isinstance(only(seen, Gap), Gap)


async def test_a_cut_without_missed_events_leaves_no_gap(world: FakeWorld) -> None:
    fake = FakeBackend(world)
    async with watching(fake) as seen:
        create(world)
        await fake.advance(0)
        fake.inject.cut()
        await fake.advance(0)
    assert "Gap" not in kinds(seen)


# --- under a real engine ---


def nothing() -> None: ...


async def submit(engine: Engine, name: str = "demo", function: object = nothing, **spec: object):
    made = payloads.from_function(function, None)  # type: ignore[arg-type]
    return await engine.submit(JobSpec(name=name, payload_digest=made.digest, **spec), made)  # type: ignore[arg-type]


async def test_the_engine_sees_the_script_of_a_decorated_function(path: Path) -> None:
    @plays(lambda rank: "from the fake")
    def train() -> str:
        return "from a real backend"

    async with Engine(FakeBackend(FakeWorld(auto=True)), path) as engine:
        assert await (await submit(engine, function=train)).result() == "from the fake"


async def test_time_that_flies_ends_long_jobs_at_once(path: Path) -> None:
    world = FakeWorld(auto=True)
    world.script("demo", FakeScript(run=lambda rank: (yield 86_400)))
    async with Engine(FakeBackend(world), path) as engine:
        await (await submit(engine)).wait()


async def test_the_engine_bears_every_disorder_of_events(path: Path, world: FakeWorld) -> None:
    fake = FakeBackend(world)
    world.script("demo", FakeScript(run=lambda rank: (yield 10)))
    async with Engine(fake, path) as engine:
        handle = await submit(engine)
        fake.inject.lost(JobStarted)
        fake.inject.repeated(RankExited)
        fake.inject.late(JobCompleted, 3)
        await fake.advance(20)
        assert (await handle.wait()).status is Status.COMPLETE


async def test_a_submit_whose_answer_is_lost_leaves_one_job(path: Path) -> None:
    fake = FakeBackend(FakeWorld(auto=True))
    async with Engine(fake, path) as engine:
        fake.inject.lose_answer("submit")
        await (await submit(engine)).wait()
    assert fake.world.created == ["demo"]


async def test_a_refused_submit_leaves_nothing(path: Path) -> None:
    fake = FakeBackend(FakeWorld(auto=True))
    async with Engine(fake, path) as engine:
        fake.inject.refuse("submit", ResultError("not today"))
        with pytest.raises(ResultError, match="not today"):
            await submit(engine)
        assert await engine.jobs() == []
        await (await submit(engine)).wait()


async def test_the_engine_resumes_a_cut_log_without_loss_or_repeat(path: Path) -> None:
    fake = FakeBackend(FakeWorld(auto=True))
    fake.world.script("demo", FakeScript(run=lambda rank: rank.print("a\nb\nc")))
    async with Engine(fake, path) as engine:
        handle = await submit(engine)
        await handle.wait()
        fake.inject.cut_logs(after=2)
        lines = [line async for line in handle.logs(follow=True)]
    assert [line.text for line in lines] == ["a", "b", "c"]


async def test_lost_lines_are_told_by_a_gap_line(path: Path) -> None:
    fake = FakeBackend(FakeWorld(auto=True))
    fake.world.script("demo", FakeScript(run=lambda rank: rank.print("a\nb\nc\nd")))
    async with Engine(fake, path) as engine:
        handle = await submit(engine)
        await handle.wait()
        fake.inject.lose_lines(after=1, count=2)
        lines = [(line.stream, line.text) async for line in handle.logs()]
    assert lines == [("stdout", "a"), ("gap", "2 lines were lost here"), ("stdout", "d")]


@pytest.mark.parametrize(("tail", "texts"), [(0, []), (2, ["c", "d"]), (9, ["a", "b", "c", "d"])])
async def test_tail_gives_the_last_lines(path: Path, tail: int, texts: list[str]) -> None:
    fake = FakeBackend(FakeWorld(auto=True))
    fake.world.script("demo", FakeScript(run=lambda rank: rank.print("a\nb\nc\nd")))
    async with Engine(fake, path) as engine:
        handle = await submit(engine)
        await handle.wait()
        assert [line.text async for line in handle.logs(tail=tail)] == texts


# --- a client that dies ---


async def clean_run(path: Path) -> list[str]:
    """The points that a submit and a wait pass."""
    config = FakeBackendConfig(FakeWorld(auto=True))
    async with Engine(FakeBackend(config), path) as engine:
        await (await submit(engine)).wait()
    return config.crashes.reached


async def test_a_client_that_died_anywhere_leaves_one_job_that_the_next_client_ends_well(tmp_path: Path) -> None:
    points = await clean_run(tmp_path / "clean" / "journal.sqlite3")
    assert {"append:before", "append:after", "submit:before", "submit:after", "watch:after"} <= set(points)
    died = set()
    for step in range(len(points)):
        home = tmp_path / f"{step}"
        with replaying(home):
            died.add(await crash_and_recover(home / "journal.sqlite3", step))
    # Events come in batches of any size, so the last steps of one run may not be reached in another.
    assert {"append:before", "append:after", "submit:before", "submit:after", "watch:after"} <= died


async def crash_and_recover(path: Path, step: int) -> str:
    """The point at which the client died, "" where its work was done before that."""
    world, crashes = FakeWorld(auto=True), Crashes()
    crashes.at_step(step)
    # The caller of a dying engine sees the crash itself, or that its engine is gone.
    with pytest.raises((CrashPoint, ClientClosedError)):
        await doomed_client(path, world, crashes)
    point = crashes.reached[-1] if crashes.dead else ""
    async with Engine(FakeBackend(world), path) as engine:
        state = await (await submit(engine)).wait()
    assert state.status is Status.COMPLETE, point
    assert world.created == ["demo"], point
    return point


async def doomed_client(path: Path, world: FakeWorld, crashes: Crashes) -> None:
    engine = Engine(FakeBackend(FakeBackendConfig(world, crashes)), path)
    try:
        await (await submit(engine)).wait()
    finally:
        await engine.aclose()
    raise CrashPoint("it had nothing more to do")


async def test_a_dead_client_can_do_nothing_more(path: Path) -> None:
    crashes = Crashes()
    crashes.at("submit:before")
    fake = FakeBackend(FakeBackendConfig(FakeWorld(), crashes))
    submission = Submission(uid="u", spec=JobSpec(name="demo"), payload=payloads.none())
    for _ in range(2):
        with pytest.raises(CrashPoint):
            await fake.submit(submission)
    assert fake.world.created == []


async def test_a_failed_job_raises_from_wait(path: Path) -> None:
    def run(rank: FakeRank) -> None:
        raise ValueError("broken")

    world = FakeWorld(auto=True)
    world.script("demo", FakeScript(run=run))
    async with Engine(FakeBackend(world), path) as engine:
        with pytest.raises(JobFailedError, match="broken") as caught:
            await (await submit(engine)).wait()
    assert caught.value.rank == 0
