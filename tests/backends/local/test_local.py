"""What the local backend promises beyond the conformance suite, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig, _process
from kfasync.errors import JobFailedError, JobNotFoundError, ResultError, UnsupportedError
from kfasync.events import JobPending, JobRestarting, JobStarted, JobSuspended
from kfasync.jobs import RestartPolicy
from kfasync.jobs._spec import RANK_VARIABLES
from kfasync.trainer import AsyncTrainerClient
from tests.backends.local.conftest import end_supervisors, supervisor_status

pytestmark = pytest.mark.anyio


def distributed_environment() -> dict[str, str]:
    import os

    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: os.environ[name] for name in (*names, "PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK")}


def who() -> tuple[int, str]:
    import os

    return os.getpid(), os.getcwd()


def fail_on_rank_one() -> None:
    import os
    import threading

    print("about to", os.environ["RANK"], flush=True)
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError("the second rank divides")
    threading.Event().wait()


def wait_for_ever() -> None:
    import threading

    threading.Event().wait()


def fail_once() -> int:
    import os
    from pathlib import Path

    if not Path("been-here").exists():
        Path("been-here").touch()
        raise RuntimeError("the first attempt fails")
    return int(os.environ["TORCHELASTIC_RESTART_COUNT"])


async def test_every_rank_is_told_what_torchrun_would_tell(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=distributed_environment, num_nodes=2, num_proc_per_node=2)
    await handle.wait(timeout=60)
    told = await handle.results()
    assert [told[rank]["RANK"] for rank in range(4)] == ["0", "1", "2", "3"]
    assert [told[rank]["LOCAL_RANK"] for rank in range(4)] == ["0", "1", "0", "1"]
    assert [told[rank]["GROUP_RANK"] for rank in range(4)] == ["0", "0", "1", "1"]
    assert {env["WORLD_SIZE"] for env in told.values()} == {"4"}
    assert {env["LOCAL_WORLD_SIZE"] for env in told.values()} == {"2"}
    assert {env["MASTER_ADDR"] for env in told.values()} == {"127.0.0.1"}
    assert len({env["MASTER_PORT"] for env in told.values()}) == 1
    assert [told[rank]["PET_NODE_RANK"] for rank in range(4)] == ["0", "0", "1", "1"]


async def test_ranks_are_distinct_processes_and_nodes_have_a_directory_each(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=who, num_nodes=3)
    state = await handle.wait(timeout=60)
    told = await handle.results()
    assert len({pid for pid, _ in told.values()}) == 3
    assert len({cwd for _, cwd in told.values()}) == 3
    assert [rank.pid for rank in state.ranks] == [told[rank][0] for rank in range(3)]
    assert len({(rank.pid, rank.start_time, rank.boot_id) for rank in state.ranks}) == 3


async def test_one_failing_rank_ends_the_group_and_is_named(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=fail_on_rank_one, num_nodes=3)
    with pytest.raises(JobFailedError) as caught:
        await handle.wait(timeout=60)
    error = caught.value
    assert (error.rank, error.node, error.exit_code) == (1, 1, 1)
    assert error.exception == "ZeroDivisionError: the second rank divides"
    assert "in fail_on_rank_one" in error.traceback
    assert "about to 1" in "\n".join(error.last_lines)
    state = await handle.state()
    assert all(_process.start_time(rank.pid or 0) != rank.start_time for rank in state.ranks)


async def test_a_failed_group_restarts_in_the_same_directory(client: AsyncTrainerClient) -> None:
    policy = RestartPolicy(max_restarts=1, backoff=0.01)
    handle = await client.submit(train_func=fail_once, restart_policy=policy)
    state = await handle.wait(timeout=60)
    assert (state.attempt, state.restarts) == (2, 1)
    assert await handle.result() == 1
    kinds = [type(event) async for event in _history(client, handle.name)]
    assert kinds.index(JobRestarting) < len(kinds) - 1
    assert kinds.count(JobStarted) == 2


async def _history(client: AsyncTrainerClient, name: str) -> Any:
    end = (await (await client.attach(name)).state()).cursor
    async for event in client.events(since=0, job=name):
        yield event
        if event.cursor >= end:
            return


async def test_a_suspended_job_frees_its_place_and_resumes_as_a_new_attempt(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=wait_for_ever)
    await handle.wait({"Running"}, timeout=60)
    await handle.suspend()
    state = await handle.wait({"Suspended"}, timeout=60)
    assert state.status == "Suspended"
    await handle.resume()
    state = await handle.wait({"Running"}, timeout=60)
    assert state.attempt == 2
    await handle.cancel()
    with pytest.raises(JobFailedError, match="Cancelled"):
        await handle.wait(timeout=60)
    kinds = [type(event) async for event in _history(client, handle.name)]
    assert kinds.count(JobSuspended) == 1


def start_a_grandchild() -> int:
    import subprocess
    import sys

    program = "import threading; threading.Event().wait()"
    child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    child.returncode = 0
    return child.pid


async def test_grandchildren_do_not_outlive_the_job(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=start_a_grandchild)
    await handle.wait(timeout=60)
    assert _process.start_time(await handle.result()) is None


async def test_a_deadline_ends_the_job(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=wait_for_ever, active_deadline=1.25)
    with pytest.raises(JobFailedError) as caught:
        await handle.wait(timeout=60)
    assert caught.value.reason == "DeadlineExceeded"


async def test_a_signal_is_told_as_the_cause(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=wait_for_ever)
    state = await handle.wait({"Running"}, timeout=60)
    os.kill(state.ranks[0].pid or 0, signal.SIGSEGV)
    with pytest.raises(JobFailedError) as caught:
        await handle.wait(timeout=60)
    assert (caught.value.exit_code, caught.value.message) == (-signal.SIGSEGV, "ended by SIGSEGV")


async def test_jobs_that_do_not_fit_wait_in_order(client: AsyncTrainerClient) -> None:
    cores = len(os.sched_getaffinity(0))
    first = await client.submit(train_func=wait_for_ever, resources_per_node={"cpu": cores})
    await first.wait({"Running"}, timeout=60)
    second = await client.submit(train_func=who, resources_per_node={"cpu": 1})
    async with asyncio.timeout(60), aclosing(client.events(since=0, job=second.name)) as happened:
        async for event in happened:
            if isinstance(event, JobPending):
                break
    assert "waiting for room" in event.message
    await first.cancel()
    assert (await second.wait(timeout=60)).status == "Complete"


async def test_a_group_larger_than_the_machine_runs_alone_with_a_warning(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=who, num_nodes=3, resources_per_node={"cpu": os.cpu_count()})
    state = await handle.wait(timeout=60)
    assert [reason for reason, _ in state.warnings] == ["Oversized"]


async def test_a_group_of_more_processes_than_any_machine_bears_is_refused_at_submit(
    client: AsyncTrainerClient,
) -> None:
    with pytest.raises(UnsupportedError, match="100000 processes were asked for"):
        await client.submit(train_func=who, num_nodes=50_000, num_proc_per_node=2, name="a-slip")
    with pytest.raises(JobNotFoundError):
        await client.get_job("a-slip")


def visible_devices() -> str | None:
    import os

    return os.environ.get("CUDA_VISIBLE_DEVICES")


async def test_a_client_on_uvloop_submits_follows_and_starts_a_supervisor(own_home: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def use() -> tuple[object, list[str]]:
        async with asyncio.timeout(30), AsyncTrainerClient(LocalProcessBackendConfig()) as client:
            handle = await client.submit(train_func=lambda: print("hello") or 7)
            lines = [line.text async for line in handle.logs(follow=True)]
            return await handle.result(), lines

    assert await asyncio.to_thread(uvloop.run, use()) == (7, ["hello"])


async def test_a_job_of_nothing_is_refused_with_what_to_give(client: AsyncTrainerClient) -> None:
    with pytest.raises(UnsupportedError, match=r"nothing to run: give train_func=, script= or trainer="):
        await client.submit()


async def test_a_function_that_exits_has_no_result_and_says_so(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=sys.exit)
    with pytest.raises(ResultError, match=r"the function ended by sys.exit\(\) before it returned"):
        await handle.result()


async def test_a_gpu_that_the_machine_lacks_is_a_warning(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=visible_devices, resources_per_node={"gpu": 1})
    state = await handle.wait(timeout=60)
    assert [reason for reason, _ in state.warnings] == ["NoGPU"]
    assert await handle.result() is None


async def test_variables_that_are_set_for_each_rank_are_named_when_a_job_gives_its_own(
    client: AsyncTrainerClient, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await client.submit(train_func=lambda: os.environ["RANK"], env={"RANK": "7", "WORLD_SIZE": "9", "OWN": ""})
    state = await handle.wait(timeout=60)
    assert await handle.result() == "0"
    [(reason, message)] = state.warnings
    assert (reason, message.partition(" in env")[0]) == ("EnvIgnored", "RANK, WORLD_SIZE")
    [told] = [record for record in caplog.records if record.name == "kfasync.trainer"]
    assert vars(told)["kfasync"]["variables"] == ["RANK", "WORLD_SIZE"]


async def test_the_variables_known_to_be_set_for_each_rank_are_those_that_are(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=lambda: dict(os.environ))
    # A progress server of the job's own is respected.
    ours = {name for name in await handle.result() if not name.startswith("KUBEFLOW_TRAINER_SERVER_")}
    assert ours - os.environ.keys() == RANK_VARIABLES


async def test_simulated_gpus_are_handed_out_by_slot(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFASYNC_GPUS", "0,1,2,3")
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=visible_devices, num_nodes=2, resources_per_node={"gpu": 2})
        await handle.wait(timeout=60)
        assert await handle.results() == {0: "0,1", 1: "0,1", 2: "2,3", 3: "2,3"}


@pytest.fixture
def small_disk(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home on a filesystem of 6 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount the small filesystem that is to be filled")
    monkeypatch.setenv("KFASYNC_HOME", str(where / "home"))
    yield where / "home"
    end_supervisors(where / "home")
    subprocess.run(["umount", str(where)], check=True)


def fill_the_disk() -> None:
    while True:
        print("x" * 65535, flush=True)


async def test_the_end_of_a_job_that_filled_the_disk_is_told(small_disk: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        assert await (await client.submit(train_func=who)).result()
        assert (small_disk / "ballast").stat().st_blocks * 512 >= 1 << 20
        handle = await client.submit(train_func=fill_the_disk)
        assert (await handle.wait({"Failed"}, timeout=60)).reason == "Error"
        # The room is taken again once there is enough.
        await handle.delete()
        assert await (await client.submit(train_func=who)).result()
        assert (small_disk / "ballast").stat().st_blocks * 512 >= 1 << 20


async def test_a_job_that_filled_the_disk_can_be_deleted_and_the_next_one_runs(small_disk: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=fill_the_disk)
        (rank,) = (await handle.wait({"Running"}, timeout=60)).ranks
        assert rank.pid is not None
        with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(rank.pid)) as gone:
            await asyncio.to_thread(select.select, [gone], [], [], 60)
        await asyncio.wait_for(handle.delete(), 60)
        assert await (await client.submit(train_func=who)).result()


async def test_a_dead_supervisor_is_replaced_and_the_job_goes_on(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=touch_and_wait)
        state = await handle.wait({"Running"}, timeout=60)
        async with aclosing(handle.logs(follow=True)) as lines:
            assert (await anext(lines)).text == "ready"
        pid = (await supervisor_status(own_home))["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        status = await supervisor_status(own_home)
        assert status["pid"] != pid
        assert status["jobs"] == [handle.name]
        assert _process.start_time(state.ranks[0].pid or 0) == state.ranks[0].start_time
        (own_home / "jobs" / handle.uid / "node-0" / "fifo").write_text("go on")
        assert (await handle.wait(timeout=60)).status == "Complete"
        assert await handle.result() == state.ranks[0].pid


def touch_and_wait() -> int:
    import os

    os.mkfifo("fifo")
    print("ready")
    with open("fifo") as fifo:
        fifo.read()
    return os.getpid()


async def test_a_rank_that_dies_with_its_supervisor_is_lost(own_home: Path) -> None:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=touch_and_wait)
        state = await handle.wait({"Running"}, timeout=60)
        async with aclosing(handle.logs(follow=True)) as lines:
            assert (await anext(lines)).text == "ready"
        pid = (await supervisor_status(own_home))["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGSTOP)
        os.kill(state.ranks[0].pid or 0, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(JobFailedError) as caught:
            await handle.wait(timeout=60)
        assert caught.value.reason == "Lost"


async def test_a_killed_zygote_costs_no_job(client: AsyncTrainerClient, home: Path) -> None:
    await (await client.submit(train_func=who)).wait(timeout=60)
    zygotes = (await supervisor_status(home))["zygotes"]
    assert isinstance(zygotes, list)
    for pid in zygotes:
        os.kill(pid, signal.SIGKILL)
    assert (await (await client.submit(train_func=who)).wait(timeout=60)).status == "Complete"


async def test_a_home_whose_path_is_longer_than_a_socket_name_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100) / "home"
    monkeypatch.setenv("KFASYNC_HOME", str(deep))
    try:
        async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
            assert (await (await client.submit(train_func=who)).wait(timeout=60)).status == "Complete"
    finally:
        end_supervisors(deep)
