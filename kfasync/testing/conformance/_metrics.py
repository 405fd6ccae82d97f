"""Guarantees 5 and 6: numbers, and events."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from pathlib import Path

from kfasync.events import Event, JobCompleted, JobFailed, ProgressReported
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee, history
from kfasync.trainer import AsyncTrainerClient

__all__ = ["MetricTests"]

_NAN = float("nan")


class MetricTests(ConformanceBase):
    """Numbers count however they were reported; events are complete and in one order."""

    @guarantee(5)
    async def test_reported_and_printed_numbers_give_min_max_and_latest(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.report_numbers, func_args={"losses": [0.5, 0.125, 0.25]})
        await handle.wait()
        metrics = await client.get_job_metrics(handle.name)
        loss, accuracy = metrics["loss"], metrics["accuracy"]
        assert (loss.min, loss.max, loss.latest) == (0.125, 0.5, 0.25)
        assert (accuracy.min, accuracy.max, accuracy.latest) == (0.1, 0.3, 0.3)

    @guarantee(5)
    async def test_a_name_that_a_line_repeats_counts_each_time(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_lines, func_args={"lines": ["loss=0.5 loss=0.25 loss=1"]})
        await handle.wait()
        loss = (await client.get_job_metrics(handle.name))["loss"]
        assert (loss.min, loss.max, loss.latest) == (0.25, 1.0, 1.0)

    @guarantee(5)
    async def test_numbers_that_nobody_read_while_they_came_are_there_for_the_next_client(self, home: Path) -> None:
        async with self.new_client() as first:
            handle = await first.submit(train_func=_jobs.report_numbers, func_args={"losses": [1.0, 2.0]})
            await handle.wait()
        async with self.new_client() as second:
            assert (await second.get_job_metrics(handle.name))["loss"].latest == 2.0
            again = await second.get_job_metrics(handle.name)
            assert (again["loss"].min, again["loss"].max) == (1.0, 2.0)

    @guarantee(5)
    async def test_metrics_come_while_the_job_runs(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.report_then_wait, func_args={"loss": 0.75})
        async with aclosing(handle.metrics()) as reports:
            report = await anext(reports)
            assert (dict(report.values), report.step, report.rank) == ({"loss": 0.75}, 1, 0)
            assert (await handle.state()).status == "Running"
            await handle.cancel()
            assert [report async for report in reports] == []

    @guarantee(5)
    async def test_every_report_comes_once_and_in_order(self, client: AsyncTrainerClient) -> None:
        losses = [step / 4 for step in range(50)]
        handle = await client.submit(train_func=_jobs.report_numbers, func_args={"losses": losses})
        reports = [report async for report in handle.metrics() if "loss" in report.values]
        assert [report.values["loss"] for report in reports] == losses
        assert [report.step for report in reports] == list(range(1, 51))

    @guarantee(5)
    async def test_numbers_that_are_not_finite_are_numbers_too(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.report_numbers, func_args={"losses": [_NAN, 1.5, -math.inf]})
        await handle.wait()
        loss = (await client.get_job_metrics(handle.name))["loss"]
        assert (loss.min, loss.max, loss.latest) == (-math.inf, 1.5, -math.inf)

    @guarantee(5)
    async def test_kubeflows_progress_protocol_reports_with_no_change(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.report_by_protocol)
        assert await handle.result() is True
        assert (await client.get_job_metrics(handle.name))["loss"].latest == 0.5
        progress = [event for event in await history(client, handle) if isinstance(event, ProgressReported)]
        assert [(event.percent, event.remaining) for event in progress] == [(50.0, 30.0)]

    @guarantee(6)
    async def test_events_have_rising_cursors_and_go_on_behind_any_of_them(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1}, num_nodes=2)
        await handle.wait()
        events = await history(client, handle)
        cursors = [event.cursor for event in events]
        assert cursors == sorted(set(cursors))
        for known in range(len(events) - 1):
            rest = await _until(client, cursors[known], cursors[-1], handle.uid)
            assert rest == events[known + 1 :]

    @guarantee(6)
    async def test_two_clients_see_the_same_events_in_the_same_order(
        self, client: AsyncTrainerClient, home: Path
    ) -> None:
        async with self.new_client() as other:
            handle = await client.submit(train_func=_jobs.add, func_args={"a": 1})
            await handle.wait()
            end = (await handle.state()).cursor
            ours, theirs = await asyncio.gather(*(_until(c, 0, end, handle.uid) for c in (client, other)))
        assert ours == theirs
        assert [event.cursor for event in ours] == [event.cursor for event in theirs]

    @guarantee(6)
    async def test_a_subscriber_sees_what_happens_as_it_happens(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.wait_for_stop)
        kinds = []
        async with aclosing(client.events(since=0, job=handle.name)) as events:
            async for event in events:
                kinds.append(type(event).__name__)
                if kinds[-1] == "JobStarted":
                    await handle.cancel()
                if isinstance(event, JobFailed):
                    break
        order = [kind for kind in kinds if kind in ("JobSubmitted", "JobStarted", "StopRequested", "JobFailed")]
        assert order == ["JobSubmitted", "JobStarted", "StopRequested", "JobFailed"]

    @guarantee(6)
    async def test_a_cancel_that_races_with_the_end_leaves_one_terminal_event(self, client: AsyncTrainerClient) -> None:
        handles = [await client.submit(train_func=_jobs.add, func_args={"a": number}) for number in range(5)]
        await asyncio.gather(*(handle.cancel() for handle in handles))
        for handle in handles:
            state = await handle.wait({"Complete", "Failed"})
            assert state.reason == "Cancelled" or state.status == "Complete"
            ends = [event for event in await history(client, handle) if isinstance(event, JobCompleted | JobFailed)]
            assert len(ends) == 1


async def _until(client: AsyncTrainerClient, since: int, end: int, uid: str) -> list[Event]:
    """The events of one job in the stream of all, up to a cursor."""
    found: list[Event] = []
    async with aclosing(client.events(since=since)) as events:
        async for event in events:
            if event.uid == uid:
                found.append(event)
            if event.cursor >= end:
                return found
    raise AssertionError("the stream of events ended")
