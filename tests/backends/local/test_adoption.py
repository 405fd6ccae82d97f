"""What a supervisor makes of the jobs that an earlier one left, at any step."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.errors import BackendError, JobFailedError
from kfasync.trainer import AsyncTrainerClient
from tests.backends.local.conftest import supervisor_status

pytestmark = pytest.mark.anyio


def follow_orders() -> None:
    import os

    os.mkfifo("fifo")
    print("ready")
    with open("fifo") as fifo:
        print(fifo.read())


async def kill_supervisor(home: Path) -> None:
    pid = (await supervisor_status(home))["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)


async def test_the_output_of_an_adopted_job_is_still_marked(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=follow_orders)
        async with aclosing(handle.logs(follow=True)) as lines:
            assert (await anext(lines)).text == "ready"
        await kill_supervisor(own_home)
        await supervisor_status(own_home)
        job = own_home / "jobs" / handle.uid
        before = (job / "attempt-1" / "marks").stat().st_size
        (job / "node-0" / "fifo").write_text("more")
        await handle.wait(timeout=60)
        assert (job / "attempt-1" / "marks").stat().st_size > before


async def test_a_job_whose_start_was_not_recorded_runs_once_it_is_adopted(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=follow_orders)
        async with aclosing(handle.logs(follow=True)) as lines:
            assert (await anext(lines)).text == "ready"
        started = await handle.wait({"Running"}, timeout=60)
    await kill_supervisor(own_home)
    forget_the_start(own_home, handle.uid)
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.attach(handle.name)
        adopted = await handle.wait({"Running"}, timeout=20)
        assert (adopted.status, adopted.ranks) == ("Running", started.ranks)
        (own_home / "jobs" / handle.uid / "node-0" / "fifo").write_text("more")
        await handle.wait(timeout=60)


def forget_the_start(home: Path, uid: str) -> None:
    """As if the supervisor had died after the ranks began and before it wrote so."""
    import dataclasses
    import json
    import sqlite3

    from kfasync.state import JobState

    with sqlite3.connect(home / "journal.sqlite3") as connection:
        connection.execute("DELETE FROM events WHERE uid = ? AND type != 'JobSubmitted'", (uid,))
        ((text,),) = connection.execute("SELECT state FROM jobs WHERE uid = ?", (uid,)).fetchall()
        ((first,),) = connection.execute("SELECT cursor FROM events WHERE uid = ?", (uid,)).fetchall()
        state = JobState.from_dict(json.loads(text))
        known = dataclasses.replace(
            state, status=type(state.status).CREATED, reason="Queued", started=None, ranks=(), cursor=first
        )
        connection.execute(
            "UPDATE jobs SET status = 'Created', state = ?, cursor = ? WHERE uid = ?",
            (json.dumps(known.facts(), sort_keys=True, separators=(",", ":")), first, uid),
        )
    connection.close()


async def test_a_torn_file_of_one_job_keeps_no_supervisor_from_starting(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=follow_orders)
        async with aclosing(handle.logs(follow=True)) as lines:
            assert (await anext(lines)).text == "ready"
        await kill_supervisor(own_home)
        # What a machine that loses its power leaves of a young file.
        os.truncate(own_home / "jobs" / handle.uid / "attempt-1" / "launch", 0)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait(timeout=20)
        assert caught.value.reason == "Lost"


async def test_a_request_that_makes_no_sense_costs_nobody_the_supervisor(own_home: Path) -> None:
    link = Link(Home(own_home))
    pid = (await link.request("status"))["pid"]
    with pytest.raises(BackendError, match="submit"):
        await link.request("submit", uid="u", digest="d", spec="no spec", launch={})
    assert (await link.request("status"))["pid"] == pid
    await link.aclose()


def make_a_cgroup() -> None:
    import os
    from pathlib import Path

    own = next(line[3:].strip() for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::")
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if "kfasync-" in own and os.path.isdir(mount + own):
            os.makedirs(f"{mount}{own}/inner/most")


async def test_a_job_that_made_cgroups_of_its_own_ends(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=make_a_cgroup)
    assert (await handle.wait(timeout=10)).status == "Complete"
