"""Requests that meet a job in the middle of something else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from kfasync.backends.local import LocalProcessBackendConfig, _process, _runner
from kfasync.backends.local._gang import Exit, Gang
from kfasync.backends.local._launch import Launch
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.backends.local._ranks import RankProcess
from kfasync.backends.local._runner import Runner
from kfasync.errors import BackendUnavailableError, JobFailedError, ResultError
from kfasync.events import Event, JobDeleted, JobFailed, StopRequested
from kfasync.inotify import FileWatch
from kfasync.jobs import JobSpec
from kfasync.state import JobState, Journal
from kfasync.testing import chaos
from kfasync.trainer import AsyncTrainerClient
from tests.backends.local.conftest import end_supervisors

if TYPE_CHECKING:
    from kfasync.backends.local._supervisor import Supervisor

pytestmark = pytest.mark.anyio


def take_long_to_stop() -> None:
    import threading
    from pathlib import Path

    import kfasync

    kfasync.should_stop()
    print("ready")
    while not Path("leave").exists():
        threading.Event().wait(0.01)


def wait_for_ever() -> None:
    import threading

    threading.Event().wait()


async def test_a_cancel_overrules_a_suspend_that_is_under_way(client: AsyncTrainerClient, home: Path) -> None:
    handle = await client.submit(train_func=take_long_to_stop)
    work = home / "jobs" / handle.uid / "node-0"
    async with aclosing(handle.logs(follow=True)) as lines:
        assert (await anext(lines)).text == "ready"
    await handle.suspend()
    await handle.cancel()
    (work / "leave").touch()
    with pytest.raises(JobFailedError, match="Cancelled"):
        await handle.wait(timeout=10)


async def test_a_suspended_job_can_be_deleted_while_it_is_stopping(client: AsyncTrainerClient, home: Path) -> None:
    handle = await client.submit(train_func=take_long_to_stop)
    work = home / "jobs" / handle.uid / "node-0"
    async with aclosing(handle.logs(follow=True)) as lines:
        assert (await anext(lines)).text == "ready"
    await handle.suspend()
    deleting = asyncio.create_task(handle.delete())
    await asyncio.sleep(0.3)
    (work / "leave").touch()
    await asyncio.wait_for(deleting, 10)


async def test_two_deletes_at_once_both_succeed(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=wait_for_ever)
    await handle.wait({"Running"}, timeout=60)
    await asyncio.gather(handle.delete(), handle.delete(), handle.delete())


async def test_a_job_whose_directory_was_removed_can_still_be_cancelled(client: AsyncTrainerClient, home: Path) -> None:
    handle = await client.submit(train_func=wait_for_ever)
    state = await handle.wait({"Running"}, timeout=60)
    shutil.rmtree(home / "jobs" / handle.uid)
    await handle.cancel()
    with pytest.raises(JobFailedError) as caught:
        await handle.wait(timeout=20)
    assert caught.value.reason == "Cancelled"
    assert _process.start_time(state.ranks[0].pid or 0) != state.ranks[0].start_time


async def test_a_cancel_that_came_too_late_for_a_suspend_ends_the_job_when_it_is_adopted(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=wait_for_ever)
        await handle.wait({"Running"}, timeout=60)
        await handle.suspend()
        state = await handle.wait({"Suspended"}, timeout=60)
        # As if the supervisor had died between the wish and its fulfilment.
        end_supervisors(own_home)
        journal = await Journal.open(own_home / "journal.sqlite3")
        wish = StopRequested(place=state.place, job=state.name, uid=state.uid, attempt=state.attempt, cause="cancel")
        await journal.append([wish])
        await journal.aclose()
        with pytest.raises(JobFailedError, match="Cancelled"):
            await handle.wait(timeout=20)


def fill_the_disk() -> None:
    import contextlib
    import threading

    with contextlib.suppress(OSError), open("everything", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    threading.Event().wait()


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A filesystem of 8 MB, with a home on it."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    monkeypatch.setenv("KFASYNC_HOME", str(tmp_path / "home"))
    yield tmp_path
    end_supervisors(tmp_path / "home")
    subprocess.run(["umount", "-l", tmp_path], check=True)


async def test_a_job_that_fills_the_disk_can_be_cancelled(small_disk: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=fill_the_disk)
        state = await handle.wait({"Running"}, timeout=60)
        everything = small_disk / "home" / "jobs" / handle.uid / "node-0" / "everything"
        fd = os.pidfd_open(state.ranks[0].pid or 0)
        async with asyncio.timeout(30), FileWatch() as watch:
            watch.add(everything.parent)
            while shutil.disk_usage(small_disk).free:
                await watch.wait()
        cancelling = asyncio.create_task(handle.cancel())
        assert await asyncio.to_thread(select.select, [fd], [], [], 20) == ([fd], [], [])
        os.close(fd)
        everything.unlink()
        await cancelling
        with pytest.raises(JobFailedError, match="Cancelled"):
            await handle.wait(timeout=60)


async def test_a_group_that_could_only_be_started_in_part_leaves_no_rank_behind(
    client: AsyncTrainerClient, home: Path
) -> None:
    cores = len(os.sched_getaffinity(0))
    first = await client.submit(train_func=wait_for_ever, resources_per_node={"cpu": cores})
    await first.wait({"Running"}, timeout=60)
    fresh = {"PYTHONNODEBUGRANGES": ""}
    second = await client.submit(train_func=wait_for_ever, num_nodes=2, resources_per_node={"cpu": 1}, env=fresh)
    job = home / "jobs" / second.uid
    # The second rank's context can't be written.
    (job / "private-context-1-1.json").mkdir()
    await first.cancel()
    with pytest.raises(JobFailedError):
        await second.wait(timeout=60)
    assert _process.kill_session(-1, 0, f"KFASYNC_REPORT_FILE={job}/attempt-1/rank-0.report") == []


def test_the_rank_that_ran_out_of_memory_is_told_though_others_ended_after_it(tmp_path: Path) -> None:
    async def run() -> Event:
        home = SimpleNamespace(place="here", home=Home(tmp_path))
        job = JobState(place="here", name="job", uid="uid", spec=JobSpec(name="job", num_nodes=2).to_dict())
        runner = Runner(cast("Supervisor", home), job)
        gang = Gang(2, grace=1)
        gang.exited(Exit(0, -signal.SIGKILL, 1.0, out_of_memory=True))
        gang.exited(Exit(1, -signal.SIGTERM, 2.0))
        assert gang.outcome is not None
        return runner._end_event(gang.outcome)

    told = asyncio.run(run())
    assert isinstance(told, JobFailed)
    assert (told.reason, told.rank) == ("OOMKilled", 0)


async def test_a_request_whose_answer_was_lost_may_be_sent_again(client: AsyncTrainerClient, home: Path) -> None:
    handle = await client.submit(train_func=wait_for_ever)
    job = await handle.wait({"Running"}, timeout=60)
    link = Link(Home(home))
    for _ in range(2):
        await link.request("delete", uid=job.uid, name=job.name)
    launch = Launch(python=sys.executable, environ={})
    again = {"uid": "twice", "spec": {**job.spec, "name": "twice"}, "digest": "d", "launch": vars(launch)}
    with contextlib.suppress(BackendUnavailableError):
        await asyncio.gather(*(link.request("submit", b"", **again) for _ in range(2)), return_exceptions=True)
    await link.request("submit", b"", **again)
    assert (home / "jobs" / "twice" / "payload").exists()
    await link.request("delete", uid="twice", name="twice")
    await link.aclose()


class Particular(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("built from two values, but its pickle holds one")


def return_what_cannot_be_loaded() -> object:
    return Particular(1, 2)


async def test_a_result_that_cannot_be_loaded_is_a_result_error(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=return_what_cannot_be_loaded)
    with pytest.raises(ResultError, match="loaded"):
        await handle.result()


def become_the_supervisors_parent() -> int:
    import asyncio
    import os
    import signal

    from kfasync import settings
    from kfasync.backends.local._layout import Home
    from kfasync.backends.local._link import Link

    async def main() -> int:
        link = Link(Home(settings.load().home))
        os.kill((await link.request("status"))["pid"], signal.SIGKILL)
        pid: int = (await link.request("status"))["pid"]
        return pid

    return asyncio.run(main())


async def test_a_supervisor_that_a_rank_had_to_start_outlives_the_rank(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        other = await client.submit(train_func=wait_for_ever)
        await other.wait({"Running"}, timeout=60)
        handle = await client.submit(train_func=become_the_supervisors_parent, env={"KFASYNC_HOME": str(own_home)})
    # Nobody else may start one.
    journal = await Journal.open(own_home / "journal.sqlite3")
    async with asyncio.timeout(30):
        after = await journal.head()
        while (state := await journal.job_by_uid(handle.uid)) is None or not state.terminal:
            after = await journal.changed(after)
    await journal.aclose()
    supervisor = await chaos.supervisor(own_home)
    assert supervisor is not None
    assert supervisor.alive
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        assert await (await client.attach(handle.name)).result() == supervisor.pid
        assert (await client.attach(other.name)) is not None


async def test_a_supervisor_leaves_no_cgroup_behind(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        await (await client.submit(train_func=return_what_cannot_be_loaded)).wait(timeout=60)
    mount = _process.cgroup_mount() or own_home
    name = _process.cgroup_name(own_home)
    end_supervisors(own_home)
    assert list(mount.rglob(name)) == []


async def test_a_grandchild_that_cannot_be_killed_holds_up_the_end_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(RankProcess):
        async def end_tree(self, mark: str) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(_runner, "UNKILLABLE_AFTER", 0.1)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ended.set_result(0)
    host = SimpleNamespace(place="here", home=Home(tmp_path))
    job = JobState(place="here", name="job", uid="uid", spec=JobSpec(name="job").to_dict())
    runner = Runner(cast("Supervisor", host), job)
    exit_ = await asyncio.wait_for(runner._rank_exit(0, Stuck(_process.Identity(1, 1, ""), None, ended)), 5)
    assert exit_.code == 0


async def test_a_client_that_gives_up_while_it_connects_leaves_no_connection(own_home: Path) -> None:
    home = Home(own_home)
    home.create()
    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass
        writer.close()
        gone.set()

    link = Link(home)
    async with await asyncio.start_unix_server(say_nothing, home.socket):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.request("status"), 0.2)
        await asyncio.wait_for(gone.wait(), 5)


async def test_old_jobs_are_collected_while_the_supervisor_runs(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFASYNC_KEEP_JOBS", "2")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handles = []
        for _ in range(5):
            handles.append(await client.submit(train_func=return_what_cannot_be_loaded))
            await handles[-1].wait(timeout=60)
        async with asyncio.timeout(20), aclosing(client.events(since=0, job=None)) as happened:
            async for event in happened:
                if isinstance(event, JobDeleted) and event.uid == handles[2].uid:
                    break
        assert sorted(path.name for path in (own_home / "jobs").iterdir()) == sorted(h.uid for h in handles[3:])
