"""Guarantee 4: logs."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import Any

import pytest

from kfasync.backends.base import LogLine
from kfasync.errors import InvalidSpecError
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee, line, texts
from kfasync.trainer import AsyncTrainerClient

__all__ = ["LogTests"]

_HOSTILE = [
    "",
    "  spaces  ",
    "naïve \u2603 \U0001f600",
    "$(id) `id` $HOME",
    "100% %s %d {0}",
    "tab\there",
    "x" * 200_000,
    "last",
]


class LogTests(ConformanceBase):
    """Every line once, in order, from the right rank, for readers of any speed."""

    @guarantee(4)
    async def test_stdout_and_stderr_are_told_apart(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(
            train_func=_jobs.print_lines, func_args={"lines": ["out 1", "out 2"], "errors": ["err 1", "err 2"]}
        )
        await handle.wait()
        lines = [line async for line in handle.logs()]
        assert [x.text for x in lines if x.stream == "stdout"] == ["out 1", "out 2"]
        assert [x.text for x in lines if x.stream == "stderr"] == ["err 1", "err 2"]
        assert await texts(handle, streams=("stderr",)) == ["err 1", "err 2"]

    @guarantee(4)
    async def test_each_node_has_its_own_log_and_all_can_be_merged(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_marks, num_nodes=2)
        await handle.wait()
        first, second = "rank 0 of 2 on node 0 attempt 1", "rank 1 of 2 on node 1 attempt 1"
        assert await texts(handle) == [first]
        assert await texts(handle, "node-1") == [second]
        assert sorted(await texts(handle, None)) == [first, second]
        assert await texts(handle, None, rank=1) == [second]
        prefixed = [line async for line in client.get_job_logs(handle.name, step=None)]
        assert sorted(prefixed) == [f"[node-0] {first}", f"[node-1] {second}"]

    @guarantee(4)
    async def test_several_ranks_of_a_node_share_its_log(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_marks, num_nodes=2, num_proc_per_node=2)
        await handle.wait()
        lines = [line async for line in handle.logs("node-1")]
        assert sorted((x.rank, x.text) for x in lines) == [
            (rank, f"rank {rank} of 4 on node 1 attempt 1") for rank in (2, 3)
        ]

    @guarantee(4)
    async def test_following_before_the_start_waits_and_misses_nothing(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_lines, func_args={"lines": ["a", "b", "c"]})
        assert await texts(handle, follow=True) == ["a", "b", "c"]
        assert (await handle.wait()).status == "Complete"

    @guarantee(4)
    async def test_following_ends_with_the_job_and_not_before(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_and_wait, func_args={"lines": ["a", "b"]})
        async with aclosing(handle.logs(follow=True)) as lines:
            assert [(await anext(lines)).text for _ in "ab"] == ["a", "b"]
            ending = asyncio.ensure_future(anext(lines, None))
            assert not (await asyncio.wait({ending}, timeout=0.05))[0]
            await handle.cancel()
            assert await ending is None
        assert (await handle.state()).reason == "Cancelled"

    @guarantee(4)
    async def test_what_is_there_can_be_read_without_following(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_and_wait, func_args={"lines": ["a", "b"]})
        await line(handle, "b")
        assert await texts(handle) == ["a", "b"]
        await handle.delete()

    @guarantee(4)
    @pytest.mark.parametrize("follow", [False, True])
    async def test_reading_goes_on_behind_any_cursor(self, client: AsyncTrainerClient, follow: bool) -> None:
        handle = await client.submit(
            train_func=_jobs.print_lines, func_args={"lines": list("abc"), "errors": list("def")}, num_nodes=2
        )
        await handle.wait()
        everything = [line async for line in handle.logs(None)]
        assert len(everything) == 12
        for known in range(1, len(everything) + 1):
            since = everything[known - 1].cursor
            rest = [line async for line in handle.logs(None, since=since, follow=follow)]
            both = [*everything[:known], *rest]
            assert sorted(map(_place, both)) == sorted(map(_place, everything)), f"behind line {known}"

    @guarantee(4)
    @pytest.mark.parametrize(("tail", "expected"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])])
    async def test_tail_gives_the_last_lines(self, client: AsyncTrainerClient, tail: int, expected: list[str]) -> None:
        handle = await client.submit(train_func=_jobs.print_lines, func_args={"lines": ["a", "b", "c"]})
        await handle.wait()
        assert await texts(handle, tail=tail) == expected
        assert await texts(handle, tail=tail, follow=True) == expected

    @guarantee(4)
    async def test_a_query_for_what_can_not_exist_is_an_error(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_lines, func_args={"lines": ["a"]})
        await handle.wait()
        queries: list[dict[str, Any]] = [{"tail": tail} for tail in ("3", -1, 1.5)]
        queries += [{"since": []}, {"since": float("nan")}, {"since": True}]
        queries += [{"attempt": attempt} for attempt in (99, 0, "1")]
        for query in queries:
            [(name, value)] = query.items()
            with pytest.raises(InvalidSpecError, match=rf"{name}.*{re.escape(repr(value))}"):
                await texts(handle, **query)
        for node in (4, 1, -1, "0"):
            with pytest.raises(InvalidSpecError, match=f"nodes 0 to 0, not {node!r}"):
                await handle.files(node)  # type: ignore[arg-type]

    @guarantee(4)
    async def test_lines_of_any_content_and_length_arrive_as_printed(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_lines, func_args={"lines": _HOSTILE})
        lines = [line async for line in handle.logs(follow=True)]
        # A long line comes in pieces; a piece that is not the last says so by where the next one begins.
        whole = ""
        for before, after in zip(lines, [*lines[1:], None], strict=True):
            size = len(before.text.encode())
            whole += before.text + ("" if after is not None and after.position == before.position + size else "\n")
        assert whole.split("\n")[:-1] == _HOSTILE

    @guarantee(4)
    async def test_a_reader_that_stops_reading_does_not_stop_the_job(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_many, func_args={"count": 50_000})
        async with aclosing(handle.logs(follow=True)) as lines:
            assert (await anext(lines)).text == "line 0"
            assert (await handle.wait()).status == "Complete"
            assert [line.text async for line in lines] == [f"line {number}" for number in range(1, 50_000)]

    @guarantee(4)
    async def test_several_readers_see_the_same(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.print_many, func_args={"count": 500})
        read = await asyncio.gather(*(texts(handle, follow=True) for _ in range(3)))
        assert read == [[f"line {number}" for number in range(500)]] * 3

    @guarantee(4)
    async def test_the_log_of_an_earlier_attempt_stays(self, client: AsyncTrainerClient) -> None:
        from kfasync.jobs import RestartPolicy

        handle = await client.submit(
            train_func=_jobs.fail_once, restart_policy=RestartPolicy(max_restarts=1, backoff=0)
        )
        await handle.wait()
        assert any("the first attempt always fails" in text for text in await texts(handle, attempt=1))
        assert await texts(handle, attempt=2) == []


def _place(line: LogLine) -> tuple[int, int, str, int, str]:
    return line.attempt, line.rank, line.stream, line.position, line.text
