"""Guarantee 8: clients come and go, jobs stay."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kfasync.errors import ClientClosedError
from kfasync.testing import chaos
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee, line, texts
from kfasync.trainer import AsyncTrainerClient

__all__ = ["ClientTests"]

# The other client: submits, says so, and follows the job until it is killed.
_DOOMED = """
import asyncio, pickle, sys
from kfasync.testing.conformance import _jobs
from kfasync.trainer import AsyncTrainerClient

async def main():
    async with AsyncTrainerClient(pickle.loads(bytes.fromhex(sys.argv[1]))) as client:
        handle = await client.submit(train_func=_jobs.stop_politely, name=sys.argv[2])
        print("submitted", flush=True)
        await handle.wait()

asyncio.run(main())
"""


class ClientTests(ConformanceBase):
    """No client is needed for a job to go on, and any client can take it up."""

    @asynccontextmanager
    async def doomed_client(self, name: str) -> AsyncIterator[chaos.Identity]:
        """Another process that has submitted a job and waits for it; killed at the latest when the block ends."""
        config = pickle.dumps(self.config()).hex()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _DOOMED, config, name, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"submitted\n"
            yield chaos.identify(process.pid)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    @guarantee(8, needs=("other-clients",))
    async def test_a_job_survives_the_kill_of_its_client_and_is_taken_up_by_another(
        self, client: AsyncTrainerClient
    ) -> None:
        async with self.doomed_client("survivor") as doomed:
            chaos.kill(doomed)
            await chaos.ended(doomed)
        assert "survivor" in [job.name for job in await client.list_jobs()]
        handle = await client.attach("survivor")
        await line(handle, "ready")
        assert (await handle.state()).status == "Running"
        await handle.cancel()
        assert (await handle.wait({"Failed"})).reason == "Cancelled"
        assert await texts(handle) == ["ready", "checkpoint saved"]

    @guarantee(8, needs=("other-clients",))
    async def test_a_client_in_another_process_hears_of_what_this_one_does(self, client: AsyncTrainerClient) -> None:
        async with self.doomed_client("shared") as other:
            handle = await client.attach("shared")
            await line(handle, "ready")
            await handle.cancel()
            # Its wait raises, which ends it.
            await chaos.ended(other)

    @guarantee(8)
    async def test_a_job_goes_on_while_there_is_no_client(self, home: Path) -> None:
        async with self.new_client() as first:
            handle = await first.submit(train_func=_jobs.stop_politely, name="alone")
            await line(handle, "ready")
        async with self.new_client() as second:
            assert [job.status for job in await second.list_jobs() if job.name == "alone"] == ["Running"]
            handle = await second.attach("alone")
            assert await texts(handle) == ["ready"]
            await handle.cancel()
            assert (await handle.wait({"Failed"})).reason == "Cancelled"

    @guarantee(8)
    async def test_a_finished_job_is_not_run_again_by_a_new_client(self, home: Path) -> None:
        async with self.new_client() as first:
            handle = await first.submit(train_func=_jobs.print_marks, name="once")
            await handle.wait()
        async with self.new_client() as second:
            again = await second.submit(train_func=_jobs.print_marks, name="once")
            assert (await again.wait()).attempt == 1
            assert await texts(again) == ["rank 0 of 1 on node 0 attempt 1"]

    @guarantee(8)
    async def test_two_first_clients_at_once_both_succeed(self, home: Path) -> None:
        async with self.new_client() as first, self.new_client() as second:
            handles = await asyncio.gather(
                first.submit(train_func=_jobs.add, func_args={"a": 1}),
                second.submit(train_func=_jobs.add, func_args={"a": 2}),
            )
            assert [(await handle.result())["sum"] for handle in handles] == [1, 2]
            names = {handle.name for handle in handles}
            for client in (first, second):
                assert names <= {job.name for job in await client.list_jobs()}

    @guarantee(8)
    async def test_a_closed_client_leaves_nothing_in_its_process_and_says_that_it_is_closed(self, home: Path) -> None:
        async with chaos.leaks(), self.new_client() as client:
            handle = await client.submit(train_func=_jobs.print_lines, func_args={"lines": ["a"]})
            assert await texts(handle, follow=True) == ["a"]
            await handle.wait()
            await client.get_job_metrics(handle.name)
        with pytest.raises(ClientClosedError):
            await client.list_jobs()
        with pytest.raises(ClientClosedError):
            await handle.wait()
