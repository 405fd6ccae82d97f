"""The suite on the fake place, and the faults that can occur there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kfasync.testing import FakeBackendConfig, FakeScript, FakeWorld, plays
from kfasync.testing.conformance import BackendConformance
from kfasync.testing.faults import assert_faults_covered, cannot_occur, covered_by


@plays(FakeScript(pending="Unschedulable", message="no node is large enough"))
def never_starts() -> None: ...


class TestFake(BackendConformance):
    patience = 20.0
    missing: ClassVar[Mapping[str, str]] = {
        "execution": "a fake place plays scripts",
        "processes": "a fake place has no processes",
        "other-clients": "a fake place is in the memory of one process",
    }

    @pytest.fixture(autouse=True)
    def _world(self, tmp_path: Path) -> None:
        self.world = FakeWorld(auto=True, files=tmp_path / "files")

    def config(self) -> FakeBackendConfig:
        return FakeBackendConfig(self.world)

    def unstartable(self) -> Mapping[str, Any]:
        return {"train_func": never_starts}


NO_DAEMON = "a fake place is no daemon: it is there as long as the process"
NO_PROCESSES = "a fake place has no processes"
NO_API_SERVER = "a fake place has no API server"
NO_WEB = "a fake place serves no web pages"
NO_FILES = "a fake place keeps lines in memory and reads nothing back"
FAKE = "tests/testing/test_fake.py"
ENGINE = "tests/engine"
STATE = "tests/state"

FAULTS = {
    1: covered_by("suite::test_a_failing_function_raises_with_its_exception_rank_and_last_lines"),
    2: covered_by("tests/trainer/test_sync.py::test_ctrl_c_while_following_leaves_the_job"),
    3: covered_by("suite::test_following_before_the_start_waits_and_misses_nothing"),
    4: covered_by(
        "suite::test_a_job_that_can_not_start_says_why",
        "suite::test_a_job_that_has_not_started_by_its_start_deadline_fails",
    ),
    5: covered_by(
        "suite::test_a_job_that_takes_too_much_memory_is_oom_killed",
        "suite::test_an_exit_code_is_told_and_not_taken_for_more_than_it_is",
    ),
    6: cannot_occur("a job's status never depends on what it reports; studies are not part of a backend"),
    7: covered_by(f"{ENGINE}/test_faults.py::test_a_client_that_dies_anywhere_loses_no_job"),
    8: cannot_occur(NO_PROCESSES),
    9: cannot_occur(NO_PROCESSES),
    10: covered_by("suite::test_one_rank_that_fails_ends_the_gang_and_is_named"),
    11: covered_by(
        "suite::test_a_reader_that_stops_reading_does_not_stop_the_job",
        f"{FAKE}::test_lost_lines_are_told_by_a_gap_line",
    ),
    12: covered_by(f"{STATE}/test_journal_processes.py::test_a_full_disk_is_named_harms_nothing_and_is_got_over"),
    13: covered_by(f"{ENGINE}/test_engine.py::test_a_thousand_submits_at_once_all_run_to_their_end"),
    14: covered_by(
        "suite::test_two_clients_see_the_same_events_in_the_same_order",
        f"{STATE}/test_journal_processes.py::test_processes_that_write_at_once_lose_nothing_and_record_nothing_twice",
    ),
    15: cannot_occur(NO_DAEMON),
    16: covered_by(
        "suite::test_events_have_rising_cursors_and_go_on_behind_any_of_them",
        f"{FAKE}::test_what_happened_in_an_outage_is_told_behind_a_gap",
        f"{FAKE}::test_a_cut_without_missed_events_leaves_no_gap",
    ),
    17: covered_by(f"{FAKE}::test_a_lost_end_is_found_by_the_second_look"),
    18: cannot_occur(NO_API_SERVER),
    19: cannot_occur("a fake place has no connections that could be half open"),
    20: cannot_occur(NO_API_SERVER),
    21: cannot_occur(NO_API_SERVER),
    22: cannot_occur("a fake place asks for no credentials"),
    23: covered_by(
        "suite::test_reading_goes_on_behind_any_cursor",
        f"{FAKE}::test_the_engine_resumes_a_cut_log_without_loss_or_repeat",
    ),
    24: covered_by("suite::test_following_ends_with_the_job_and_not_before"),
    25: covered_by(f"{FAKE}::test_a_submit_whose_answer_is_lost_leaves_one_job"),
    26: covered_by("suite::test_a_cancel_that_races_with_the_end_leaves_one_terminal_event"),
    27: covered_by(f"{ENGINE}/test_handle.py::test_only_the_first_of_two_ends_counts"),
    28: cannot_occur("there are no heartbeats: an end is an event"),
    29: covered_by("suite::test_a_callback_that_raises_harms_neither_the_job_nor_another_waiter"),
    30: covered_by(
        "suite::test_a_job_that_looks_at_should_stop_can_save_its_work",
        "suite::test_a_job_that_ignores_sigterm_is_killed_when_its_grace_is_over",
    ),
    31: cannot_occur(NO_PROCESSES),
    32: cannot_occur(NO_PROCESSES),
    33: cannot_occur("its time is virtual and knows no other clock"),
    34: covered_by(f"{STATE}/test_journal_processes.py::test_a_journal_on_nfs_is_refused_with_advice"),
    35: covered_by("suite::test_a_cancelled_wait_loses_nothing"),
    36: covered_by("tests/trainer/test_client.py::test_a_client_belongs_to_one_loop"),
    37: cannot_occur("results never leave the process"),
    38: covered_by("suite::test_a_secret_reaches_the_job_and_nothing_else"),
    39: cannot_occur(NO_WEB),
    40: cannot_occur("a fake place has no socket"),
    41: cannot_occur(NO_FILES),
    42: cannot_occur(NO_WEB),
    43: cannot_occur(NO_WEB),
    44: covered_by("suite::test_a_finished_job_is_not_run_again_by_a_new_client"),
    45: covered_by("suite::test_two_first_clients_at_once_both_succeed"),
}


def test_every_fault_has_a_test_or_a_reason(pytestconfig: pytest.Config) -> None:
    assert_faults_covered("fake", FAULTS, suite=TestFake, root=pytestconfig.rootpath)
