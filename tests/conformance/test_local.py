"""The suite on local processes, and the faults that can occur there."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from kfasync.testing import chaos
from kfasync.testing.conformance import BackendConformance, _jobs
from kfasync.testing.faults import assert_faults_covered, cannot_occur, covered_by
from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

# Somebody else, within the home: connects, and tells what became of it.
STRANGER = """
import os, socket
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(10)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    peer.connect("supervisor.sock")
    print("served" if peer.recv(1) else "closed", end="")
except PermissionError:
    print("refused", end="")
except ConnectionResetError:
    print("closed", end="")
"""


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("local") / "home"
    yield path
    asyncio.run(chaos.end_supervisor(path))
    chaos.end_ranks(path)


class TestLocal(BackendConformance):
    patience = 15.0
    missing: ClassVar[Mapping[str, str]] = {
        "memory-limits": "resources of local processes decide admission; they are not enforced",
        "unstartable": "whatever is asked for runs, alone if need be",
    }

    def config(self) -> LocalProcessBackendConfig:
        return LocalProcessBackendConfig()

    @pytest.fixture
    def home(self, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """One supervisor for all tests: starting it takes longer than most of them."""
        monkeypatch.setenv("KFASYNC_HOME", str(shared_home))
        monkeypatch.setenv("KFASYNC_PRELOAD", "")
        return shared_home

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    @pytest.mark.parametrize("open_to_all", [False, True])
    async def test_another_user_is_not_served(self, client: AsyncTrainerClient, home: Path, open_to_all: bool) -> None:
        await (await client.submit(train_func=_jobs.add, func_args={"a": 1})).wait()
        if open_to_all:
            # By mistake: then it is the peer's uid that keeps others out.
            home.chmod(0o755)
            home.joinpath("supervisor.sock").chmod(0o666)
        try:
            stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", STRANGER, cwd=home, stdout=PIPE)
            said, _ = await stranger.communicate()
        finally:
            home.chmod(0o700)
        assert said == (b"closed" if open_to_all else b"refused")

    async def test_whatever_is_killed_every_job_ends_with_a_true_status(
        self, client: AsyncTrainerClient, home: Path
    ) -> None:
        async def victims() -> list[chaos.Identity]:
            if len(killer.killed) == 3:
                # Killed again and again while it starts, a supervisor is given up: an error, and rightly so.
                return []
            serving = await chaos.supervisor(home)
            return [*await chaos.zygotes(home), *([] if serving is None else [serving])]

        killer = chaos.Killer(victims, seed=5, probability=0.2)
        async with asyncio.TaskGroup() as group:
            strikes = group.create_task(killer.run(client.events()))
            handles = [await client.submit(train_func=_jobs.add, func_args={"a": n}) for n in range(12)]
            states = [await handle.wait({"Complete", "Failed"}) for handle in handles]
            strikes.cancel()
        assert killer.killed
        for number, (handle, state) in enumerate(zip(handles, states, strict=True)):
            if state.status == "Complete":
                assert (await handle.result())["sum"] == number
            else:
                # Nobody can know how it ended, or it truly never ran: its zygote was killed before it could fork.
                assert state.reason == "Lost" or (state.started is None and "zygote" in state.message), state


NO_WEB = "the local place serves no web pages"
NO_API_SERVER = "the local place has no API server"
NO_NETWORK = "the local place has no network between client and supervisor"
LOCAL = "tests/backends/local"
STATE = "tests/state"

FAULTS = {
    1: covered_by("suite::test_a_failing_function_raises_with_its_exception_rank_and_last_lines"),
    2: covered_by(
        "tests/trainer/test_sync.py::test_ctrl_c_while_following_leaves_the_job",
        "tests/cli/test_process.py::test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on",
    ),
    3: covered_by("suite::test_following_before_the_start_waits_and_misses_nothing"),
    4: covered_by(
        f"{LOCAL}/test_local.py::test_jobs_that_do_not_fit_wait_in_order",
        f"{LOCAL}/test_local.py::test_a_gpu_that_the_machine_lacks_is_a_warning",
    ),
    5: covered_by(
        "suite::test_an_exit_code_is_told_and_not_taken_for_more_than_it_is",
        "suite::test_a_killed_rank_fails_its_job_with_the_signal",
    ),
    6: cannot_occur("a job's status never depends on what it reports; studies are not part of a backend"),
    7: covered_by("suite::test_a_job_survives_the_kill_of_its_client_and_is_taken_up_by_another"),
    8: covered_by(
        "suite::test_a_job_survives_the_kill_of_its_client_and_is_taken_up_by_another",
        f"{LOCAL}/test_local.py::test_grandchildren_do_not_outlive_the_job",
    ),
    9: covered_by("suite::test_cancel_ends_the_whole_process_tree"),
    10: covered_by("suite::test_one_rank_that_fails_ends_the_gang_and_is_named"),
    11: covered_by(
        "suite::test_a_reader_that_stops_reading_does_not_stop_the_job",
        "suite::test_lines_of_any_content_and_length_arrive_as_printed",
        f"{LOCAL}/test_marks.py::test_the_oldest_output_of_the_largest_file_goes_at_the_limit",
    ),
    12: covered_by(f"{STATE}/test_journal_processes.py::test_a_full_disk_is_named_harms_nothing_and_is_got_over"),
    13: covered_by(
        f"{LOCAL}/test_local.py::test_jobs_that_do_not_fit_wait_in_order",
        f"{LOCAL}/test_logs.py::test_many_followers_share_one_inotify_instance",
    ),
    14: covered_by(
        f"{STATE}/test_journal_processes.py::test_processes_that_write_at_once_lose_nothing_and_record_nothing_twice",
        "suite::test_two_clients_see_the_same_events_in_the_same_order",
    ),
    15: covered_by(f"{LOCAL}/test_local.py::test_a_dead_supervisor_is_replaced_and_the_job_goes_on"),
    16: covered_by("suite::test_events_have_rising_cursors_and_go_on_behind_any_of_them"),
    17: covered_by(f"{LOCAL}/test_local.py::test_a_rank_that_dies_with_its_supervisor_is_lost"),
    18: cannot_occur(NO_API_SERVER),
    19: cannot_occur(NO_NETWORK),
    20: cannot_occur(NO_API_SERVER),
    21: cannot_occur(NO_API_SERVER),
    22: cannot_occur("the local place asks for no credentials: the kernel tells who connects"),
    23: covered_by(
        "suite::test_reading_goes_on_behind_any_cursor", f"{LOCAL}/test_logs.py::test_a_hole_is_told_as_one_gap"
    ),
    24: covered_by("suite::test_following_ends_with_the_job_and_not_before"),
    25: covered_by(
        "suite::test_submitting_the_same_job_again_gives_the_same_job",
        "suite::test_whatever_is_killed_every_job_ends_with_a_true_status",
    ),
    26: covered_by("suite::test_a_cancel_that_races_with_the_end_leaves_one_terminal_event"),
    27: covered_by(f"{STATE}/test_journal.py::test_what_can_not_matter_any_more_is_not_recorded"),
    28: cannot_occur("there are no heartbeats: the kernel tells of each process's end"),
    29: covered_by("suite::test_a_callback_that_raises_harms_neither_the_job_nor_another_waiter"),
    30: covered_by(
        "suite::test_a_job_that_looks_at_should_stop_can_save_its_work",
        "suite::test_a_job_that_ignores_sigterm_is_killed_when_its_grace_is_over",
    ),
    31: covered_by(f"{LOCAL}/test_gang.py::test_a_rank_that_survives_the_kill_makes_the_group_unkillable"),
    32: covered_by("tests/testing/test_chaos.py::test_a_stranger_with_the_same_pid_is_spared"),
    33: cannot_occur(
        "timers run on Linux's monotonic clock, which stands still with the host, and nothing is a heartbeat"
    ),
    34: covered_by(f"{STATE}/test_journal_processes.py::test_a_journal_on_nfs_is_refused_with_advice"),
    35: covered_by("suite::test_a_cancelled_wait_loses_nothing"),
    36: covered_by(
        "tests/trainer/test_client.py::test_a_client_belongs_to_one_loop",
        "tests/trainer/test_sync.py::test_a_forked_child_goes_on_with_its_parents_client_and_handle",
    ),
    37: covered_by("suite::test_a_result_that_can_not_travel_leaves_the_job_complete"),
    38: covered_by("suite::test_a_secret_reaches_the_job_and_nothing_else"),
    39: cannot_occur(NO_WEB),
    40: covered_by("suite::test_another_user_is_not_served"),
    41: cannot_occur("the local place unpacks no archives: a job's files are where it wrote them"),
    42: cannot_occur(NO_WEB),
    43: cannot_occur(NO_WEB),
    44: covered_by("suite::test_a_finished_job_is_not_run_again_by_a_new_client"),
    45: covered_by(
        "suite::test_two_first_clients_at_once_both_succeed",
        f"{STATE}/test_journal_processes.py::test_twenty_first_opens_at_once_all_succeed_and_a_name_is_given_once",
    ),
}


def test_every_fault_has_a_test_or_a_reason(pytestconfig: pytest.Config) -> None:
    assert_faults_covered("local", FAULTS, suite=TestLocal, root=pytestconfig.rootpath)
