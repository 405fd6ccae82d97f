"""Metrics: read while somebody wants them, and afterwards by whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from kfasync.engine import Engine, JobHandle
from kfasync.events import MetricReported, ProgressReported
from kfasync.jobs import JobSpec
from kfasync.state import MetricSummary
from tests.engine.memory_place import Place

pytestmark = pytest.mark.anyio
REPORT = '{"k":"metric","t":1.0,"s":%d,"m":{"acc":%s}}'


@pytest.fixture
async def job(engine: Engine, place: Place) -> JobHandle:
    handle = await engine.submit(JobSpec(name="a"), object())
    await place.start(handle.uid)
    await handle.wait({"Running"})
    return handle


async def test_metrics_come_while_the_job_runs_and_end_with_it(job: JobHandle, place: Place) -> None:
    place.print(job.uid, "loss=0.5")
    seen: list[MetricReported] = []
    async with contextlib.aclosing(job.metrics()) as metrics:
        async for metric in metrics:
            seen.append(metric)
            if len(seen) == 1:
                place.print(job.uid, "nothing")
                place.print(job.uid, REPORT % (3, "0.75"), stream="report")
            elif len(seen) == 2:
                place.print(job.uid, "loss=0.25 lr=nan")
                await place.finish(job.uid)
    assert [(m.source, m.step, sorted(m.values)) for m in seen] == [
        ("stdout", None, ["loss"]),
        ("report", 3, ["acc"]),
        ("stdout", None, ["loss", "lr"]),
    ]


async def test_metrics_of_an_ended_job_are_read_from_its_log(
    job: JobHandle, new_engine: Callable[[], Engine], place: Place
) -> None:
    place.print(job.uid, "loss=0.5")
    place.print(job.uid, "loss=0.25")
    await place.finish(job.uid)
    await job.wait()
    async with new_engine() as other, contextlib.aclosing((await other.handle("a")).metrics()) as metrics:
        assert [metric.values["loss"] async for metric in metrics] == [0.5, 0.25]


async def test_job_metrics_summarises_what_is_there_so_far(engine: Engine, job: JobHandle, place: Place) -> None:
    for value in (3, 1, 2):
        place.print(job.uid, f"loss={value}")
    assert await engine.job_metrics("a") == {"loss": MetricSummary(1.0, 3.0, 2.0)}
    place.print(job.uid, "loss=0.5")
    assert (await engine.job_metrics("a"))["loss"].latest == 0.5


async def test_a_name_that_a_line_repeats_counts_each_time_and_once(
    engine: Engine, job: JobHandle, new_engine: Callable[[], Engine], place: Place
) -> None:
    place.print(job.uid, "loss=0.1 lr=1 loss=0.3 loss=0.2")
    place.print(job.uid, "loss=0.15")
    assert await engine.job_metrics("a") == {
        "loss": MetricSummary(0.1, 0.3, 0.15),
        "lr": MetricSummary(1.0, 1.0, 1.0),
    }
    async with new_engine() as other:
        await other.job_metrics("a")
    await place.finish(job.uid)
    async with contextlib.aclosing(job.metrics()) as metrics:
        assert [metric.values async for metric in metrics] == [
            {"loss": 0.1, "lr": 1.0},
            {"loss": 0.3},
            {"loss": 0.2},
            {"loss": 0.15},
        ]


async def test_readers_at_once_record_each_number_once(
    engine: Engine, job: JobHandle, new_engine: Callable[[], Engine], place: Place
) -> None:
    for n in range(50):
        place.print(job.uid, f"loss={n}")
    await place.finish(job.uid)
    async with new_engine() as other:
        await asyncio.gather(*(e.job_metrics("a") for e in (engine, other) * 3))
    async with contextlib.aclosing(job.metrics()) as metrics:
        assert [metric.values["loss"] async for metric in metrics] == [float(n) for n in range(50)]


async def test_numbers_of_every_attempt_count(engine: Engine, job: JobHandle, place: Place) -> None:
    place.print(job.uid, "loss=2")
    await job.suspend()
    await job.wait({"Suspended"})
    await job.resume()
    await place.start(job.uid)
    place.print(job.uid, "loss=1")
    await place.finish(job.uid)
    async with contextlib.aclosing(job.metrics()) as metrics:
        assert [(metric.attempt, metric.values["loss"]) async for metric in metrics] == [(1, 2.0), (2, 1.0)]


async def test_a_live_reader_goes_on_into_the_next_attempt(job: JobHandle, place: Place) -> None:
    place.print(job.uid, "loss=2")
    seen = []
    async with contextlib.aclosing(job.metrics()) as metrics:
        async for metric in metrics:
            seen.append((metric.attempt, metric.values["loss"]))
            if len(seen) == 1:
                await job.suspend()
                await job.wait({"Suspended"})
                await job.resume()
                await place.start(job.uid)
                place.print(job.uid, "loss=1")
                await place.finish(job.uid)
    assert seen == [(1, 2.0), (2, 1.0)]


async def test_stdout_numbers_count_from_rank_zero_and_reports_from_every_rank(
    engine: Engine, job: JobHandle, place: Place
) -> None:
    place.print(job.uid, "loss=9", rank=1)
    place.print(job.uid, REPORT % (0, "0.5"), stream="report", rank=1)
    assert list(await engine.job_metrics("a")) == ["acc"]


async def test_torn_and_foreign_reports_are_passed_over(engine: Engine, job: JobHandle, place: Place) -> None:
    for text in ('{"k":"metric","t":1.0,"s"', "garbage", "[]", REPORT % (0, '"nan"')):
        place.print(job.uid, text, stream="report")
    assert list(await engine.job_metrics("a")) == ["acc"]


async def test_events_bring_the_numbers_of_jobs_that_start_meanwhile(engine: Engine, place: Place) -> None:
    async with contextlib.aclosing(engine.events(since=0)) as events:
        handle = await engine.submit(JobSpec(name="a"), object())
        place.jobs[handle.uid].lines.clear()
        place.print(handle.uid, '{"k":"progress","t":1.0,"p":50,"r":null,"msg":"half"}', stream="report")
        await place.start(handle.uid)
        async for event in events:
            if isinstance(event, ProgressReported):
                break
    assert (event.percent, event.message) == (50.0, "half")


async def test_events_bring_the_numbers_of_jobs_that_run_already(engine: Engine, job: JobHandle, place: Place) -> None:
    async with contextlib.aclosing(engine.events()) as events:
        place.print(job.uid, "loss=1")
        assert isinstance(await anext(events), MetricReported)


async def test_nobody_reads_once_the_last_consumer_has_left(job: JobHandle, place: Place) -> None:
    place.print(job.uid, "loss=1")
    before = asyncio.all_tasks()
    first, second = job.metrics(), job.metrics()
    await anext(first)
    await anext(second)
    await first.aclose()
    place.print(job.uid, "loss=2")
    assert (await anext(second)).values == {"loss": 2.0}
    await second.aclose()
    assert asyncio.all_tasks() <= before


async def test_a_log_that_cannot_be_read_fails_its_reader_and_no_waiter(job: JobHandle, place: Place) -> None:
    lines, place.jobs[job.uid].lines = place.jobs[job.uid].lines, None  # type: ignore[assignment]
    wait = asyncio.ensure_future(job.wait())
    async with contextlib.aclosing(job.metrics()) as metrics:
        with pytest.raises(Exception, match="memory broke: TypeError"):
            await anext(metrics)
    place.jobs[job.uid].lines = lines
    await place.finish(job.uid)
    assert (await wait).name == "a"
