"""How a job's failure, or what keeps it from starting, is told; with real processes."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import JobFailedError, ResultError, UnsupportedError
from kfasync.jobs import RestartPolicy
from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio


async def failure(client: AsyncTrainerClient, **job: Any) -> JobFailedError:
    handle = await client.submit(**job)
    with pytest.raises(JobFailedError) as caught:
        await handle.wait(timeout=60)
    return caught.value


def wait_for_ever() -> None:
    import threading

    threading.Event().wait()


def leave_behind_elastics_file(code: int) -> None:
    import json
    import os
    import sys

    told = {"message": "RuntimeError: the cause", "extraInfo": {"py_callstack": "its frames", "timestamp": "1"}}
    with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
        json.dump({"message": told}, file)
    sys.exit(code)


async def test_elastics_error_file_names_the_cause_of_a_rank_that_only_left(client: AsyncTrainerClient) -> None:
    error = await failure(client, train_func=leave_behind_elastics_file, func_args={"code": 3})
    assert (error.exception, error.traceback, error.exit_code) == ("RuntimeError: the cause", "its frames", 3)


async def test_elastics_error_file_makes_no_failure_of_a_success(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=leave_behind_elastics_file, func_args={"code": 0})
    assert (await handle.wait(timeout=60)).status == "Complete"


def torchrun_inside() -> None:
    import sys
    from pathlib import Path

    from torch.distributed.run import main

    script = Path("inner.py")
    script.write_text(
        "from torch.distributed.elastic.multiprocessing.errors import record\n"
        "@record\n"
        "def main():\n"
        "    raise LookupError('deep within')\n"
        "main()\n"
    )
    sys.argv = ["torchrun", "--standalone", "--nproc-per-node=1", str(script)]
    main()


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
async def test_the_cause_within_a_torchrun_of_the_rank_is_named(client: AsyncTrainerClient) -> None:
    error = await failure(client, train_func=torchrun_inside)
    assert error.exception == "LookupError: deep within"
    assert "in main" in error.traceback


def end_by_a_real_time_signal() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGRTMIN + 1)
    signal.pause()


async def test_a_signal_without_a_name_is_told_by_its_number(client: AsyncTrainerClient) -> None:
    error = await failure(client, train_func=end_by_a_real_time_signal)
    assert (error.exit_code, error.message) == (-35, "ended by signal 35")


class Particular(Exception):
    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)


def return_what_can_be_written_only() -> Exception:
    return Particular("it pickles", "and does not unpickle")


async def test_a_result_that_can_not_be_loaded_is_a_typed_error(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=return_what_can_be_written_only)
    with pytest.raises(ResultError, match="can't be loaded here: TypeError"):
        await handle.result()
    assert (await handle.state()).status == "Complete"


def fail_on_the_first_attempt() -> int:
    import os
    import threading

    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if os.environ["RANK"] == "1":
            raise RuntimeError("one of the group")
        threading.Event().wait()
    return os.getpid()


async def test_the_whole_group_starts_again_when_one_rank_failed(client: AsyncTrainerClient) -> None:
    policy = RestartPolicy(max_restarts=1, backoff=0.0)
    handle = await client.submit(train_func=fail_on_the_first_attempt, num_nodes=2, restart_policy=policy)
    first = await handle.wait({"Running"}, timeout=60)
    last = await handle.wait(timeout=60)
    assert list((await handle.results()).values()) == [rank.pid for rank in last.ranks]
    if first.attempt == 1:
        assert not {rank.pid for rank in first.ranks} & {rank.pid for rank in last.ranks}
    assert last.attempt == 2


async def test_a_job_that_still_waits_for_room_fails_at_its_start_deadline(client: AsyncTrainerClient) -> None:
    cores = len(os.sched_getaffinity(0))
    first = await client.submit(train_func=wait_for_ever, resources_per_node={"cpu": cores})
    await first.wait({"Running"}, timeout=60)
    error = await failure(client, train_func=wait_for_ever, resources_per_node={"cpu": 1}, start_deadline=0.1)
    assert error.reason == "StartDeadlineExceeded"
    assert (await first.state()).status == "Running"
    await first.cancel()


async def test_a_missing_gpu_is_refused_where_that_was_asked_for(home: object, client: AsyncTrainerClient) -> None:
    wanted: dict[str, Any] = {"train_func": wait_for_ever, "resources_per_node": {"gpu": 1}, "name": "strict"}
    with pytest.raises(UnsupportedError, match="this machine has 0"):
        await client.submit(**wanted, strict=True)
    async with AsyncTrainerClient(LocalProcessBackendConfig(strict=True)) as strict:
        with pytest.raises(UnsupportedError, match="this machine has 0"):
            await strict.submit(**wanted)
    assert "strict" not in [job.name for job in await client.list_jobs()]
