from __future__ import annotations

from pathlib import Path

import pytest

from kfasync.testing.conformance import BackendConformance
from kfasync.testing.faults import FAULTS, Answer, assert_faults_covered, cannot_occur, covered_by

EVERYTHING = dict.fromkeys(FAULTS, cannot_occur("for this test's sake"))


class Suite(BackendConformance):
    missing = {"processes": "there are none"}  # noqa: RUF012


def check(changes: dict[int, Answer], root: Path) -> None:
    assert_faults_covered("mine", EVERYTHING | changes, suite=Suite, root=root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "test_mine.py").write_text(
        "def test_one(): ...\nclass TestMore:\n    async def test_two(self): ...\n", encoding="utf-8"
    )
    return tmp_path


def test_there_are_forty_five_faults_in_order() -> None:
    assert list(FAULTS) == list(range(1, 46))


def test_tests_and_reasons_answer_a_fault(root: Path) -> None:
    one, two = covered_by("test_mine.py::test_one"), covered_by("test_mine.py::TestMore::test_two")
    check({1: one, 2: two, 3: covered_by("suite::test_many_waiters_all_return")}, root)


def test_a_fault_with_neither_fails_with_its_statement(root: Path) -> None:
    with pytest.raises(AssertionError, match="fault 25 has neither a test nor a reason: a submit was accepted"):
        check({25: Answer()}, root)
    with pytest.raises(AssertionError, match="fault 25"):
        assert_faults_covered("mine", {n: answer for n, answer in EVERYTHING.items() if n != 25}, root=root)


def test_an_empty_reason_is_none(root: Path) -> None:
    with pytest.raises(AssertionError, match="fault 3 has neither"):
        check({3: cannot_occur("  ")}, root)


@pytest.mark.parametrize(
    "name",
    [
        "test_mine.py::test_none",
        "test_mine.py::TestMore::test_one",
        "test_mine.py::TestNone::test_two",
        "test_none.py::test_one",
        "test_mine.py",
        "suite::test_none",
        "suite",
    ],
)
def test_a_test_that_does_not_exist_fails(root: Path, name: str) -> None:
    with pytest.raises(AssertionError, match="fault 7: there is no test"):
        check({7: covered_by("test_mine.py::test_one", name)}, root)


def test_a_test_that_is_skipped_here_is_no_answer(root: Path) -> None:
    with pytest.raises(AssertionError, match=r"fault 9: the test .* is skipped here, for want of processes"):
        check({9: covered_by("suite::test_cancel_ends_the_whole_process_tree")}, root)


def test_an_unknown_fault_fails(root: Path) -> None:
    with pytest.raises(AssertionError, match="fault 46 is unknown"):
        check({46: cannot_occur("there is no such thing")}, root)


def test_who_answers_for_some_faults_only_is_asked_for_those(root: Path) -> None:
    assert_faults_covered("part", {7: covered_by("test_mine.py::test_one")}, root=root, among=[7])
    with pytest.raises(AssertionError, match="fault 9 has neither"):
        assert_faults_covered("part", {7: covered_by("test_mine.py::test_one")}, root=root, among=[7, 9])


def test_everything_wrong_is_told_at_once(root: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        check({1: Answer(), 2: covered_by("test_mine.py::test_none")}, root)
    assert str(caught.value).count("\n") == 2
