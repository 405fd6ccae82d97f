"""The suite itself: that it is complete, and that it finds what is wrong."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kfasync.testing.conformance import CAPABILITIES, BackendConformance, guarantee

TESTS = {name: getattr(BackendConformance, name) for name in dir(BackendConformance) if name.startswith("test_")}

THIRD_PARTY = """
from kfasync.testing import FakeBackend, FakeBackendConfig, FakeWorld
from kfasync.testing.conformance import BackendConformance

class Backend(FakeBackend):
    {defect}

class Config(FakeBackendConfig):
    backend_path = f"{{__name__}}:Backend"

class TestMine(BackendConformance):
    patience = 2.0
    missing = {missing}

    def config(self):
        if not hasattr(self, "place"):
            self.place = Config(FakeWorld(auto=True))
        return self.place
"""


def run(tmp_path: Path, select: str, *, defect: str = "pass", missing: dict[str, str] | None = None) -> str:
    """What pytest says of a third party's backend."""
    source = THIRD_PARTY.format(defect=textwrap.dedent(defect).strip().replace("\n", "\n    "), missing=missing or {})
    (tmp_path / "test_mine.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-rfs", "-p", "no:cacheprovider", "-k", select, "test_mine.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout


def test_every_guarantee_has_tests_and_every_test_a_guarantee() -> None:
    assert {test.__kfasync_guarantee__ for test in TESTS.values()} == set(range(1, 11))


def test_every_capability_is_needed_by_some_test() -> None:
    assert {need for test in TESTS.values() for need in test.__kfasync_needs__} == set(CAPABILITIES)


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(AssertionError, match="telepathy"):
        guarantee(1, needs=("telepathy",))


def test_a_third_party_runs_it_in_a_few_lines(tmp_path: Path) -> None:
    assert "3 passed" in run(tmp_path, "test_cancel_leaves or test_exit_code_zero or test_many_waiters")


def test_a_backend_that_breaks_a_guarantee_fails_its_test_in_bounded_time(tmp_path: Path) -> None:
    said = run(tmp_path, "test_cancel_leaves or test_exit_code_zero", defect="async def cancel(self, job): pass")
    assert "FAILED test_mine.py::TestMine::test_cancel_leaves_failed_cancelled_with_its_log" in said
    assert "1 failed, 1 passed" in said


def test_a_backend_that_repeats_lines_fails(tmp_path: Path) -> None:
    defect = """
        async def logs(self, job, query, done):
            async for line in super().logs(job, query, done):
                yield line
                yield line
    """
    assert "2 failed" in run(tmp_path, "test_stdout_and_stderr or test_following_before", defect=defect)


def test_what_a_place_lacks_is_skipped_with_its_reason(tmp_path: Path) -> None:
    said = run(tmp_path, "test_suspend_gives", missing={"suspend": "the scheduler holds no job"})
    assert "1 skipped" in said
    assert "no suspend: the scheduler holds no job" in said


def test_lacking_something_unknown_is_an_error(tmp_path: Path) -> None:
    said = run(tmp_path, "test_exit_code_zero", missing={"telepathy": "nobody can"})
    assert "1 error" in said
    assert "telepathy" in said


def test_a_journal_that_does_not_replay_fails_the_test_that_wrote_it(tmp_path: Path) -> None:
    defect = """
        async def aclose(self):
            import os, sqlite3
            connection = sqlite3.connect(os.path.join(os.environ["KFASYNC_HOME"], "journal.sqlite3"))
            connection.execute("UPDATE events SET state_hash = (SELECT state_hash FROM events WHERE cursor = 1)")
            connection.commit()
            connection.close()
    """
    said = run(tmp_path, "test_exit_code_zero", defect=defect)
    assert "1 passed" in said
    assert "ERROR at teardown of TestMine.test_exit_code_zero_is_success" in said
