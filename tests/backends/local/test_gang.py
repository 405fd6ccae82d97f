from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kfasync.backends.local._gang import Command, Exit, Gang, Kill, StartTimer, Terminate


def kinds(commands: list[Command]) -> list[type]:
    return [type(command) for command in commands]


def test_a_group_completes_when_every_rank_ended_well() -> None:
    gang = Gang(2, grace=10)
    assert gang.exited(Exit(0, 0, 1.0)) == []
    assert gang.outcome is None
    assert gang.exited(Exit(1, 0, 2.0)) == []
    assert gang.outcome is not None
    assert gang.outcome.kind == "complete"


def test_one_failure_ends_the_others_and_starts_the_grace() -> None:
    gang = Gang(3, grace=7)
    assert gang.exited(Exit(1, 1, 1.0, blamed=True)) == [Terminate(frozenset({0, 2})), StartTimer("grace", 7)]
    gang.exited(Exit(0, -15, 1.1))
    gang.exited(Exit(2, -15, 1.1))
    assert gang.outcome is not None
    assert gang.outcome.kind == "failed"
    assert gang.outcome.first == Exit(1, 1, 1.0, blamed=True)


def test_the_rank_that_failed_first_is_named_even_if_its_end_is_seen_later() -> None:
    gang = Gang(2, grace=10)
    gang.exited(Exit(1, 1, 5.0, blamed=True))  # lost its peer
    gang.exited(Exit(0, 1, 4.0, blamed=True))  # the cause
    assert gang.outcome is not None
    assert gang.outcome.first is not None
    assert gang.outcome.first.rank == 0


def test_a_rank_that_recorded_an_exception_is_blamed_before_one_that_only_exited() -> None:
    gang = Gang(2, grace=10)
    gang.exited(Exit(1, -6, 3.0))  # the collective library aborted
    gang.exited(Exit(0, 1, 4.0, blamed=True))
    assert gang.outcome is not None
    assert gang.outcome.first is not None
    assert gang.outcome.first.rank == 0


def test_a_stop_asks_once_and_the_first_cause_stays() -> None:
    gang = Gang(2, grace=10)
    assert kinds(gang.stop("cancel")) == [Terminate, StartTimer]
    assert gang.stop("suspend") == []
    gang.exited(Exit(0, -15, 1.0))
    gang.exited(Exit(1, 0, 1.0))
    assert gang.outcome is not None
    assert (gang.outcome.kind, gang.outcome.cause) == ("stopped", "cancel")


def test_the_grace_ends_with_a_kill_of_what_is_left() -> None:
    gang = Gang(2, grace=10)
    gang.stop("cancel")
    gang.exited(Exit(0, 0, 1.0))
    commands = gang.timer("grace")
    assert commands[0] == Kill(frozenset({1}))
    assert isinstance(commands[1], StartTimer)
    gang.exited(Exit(1, -9, 2.0))
    assert gang.outcome is not None
    assert gang.outcome.kind == "stopped"
    assert gang.timer("grace") == []


def test_a_rank_that_survives_the_kill_makes_the_group_unkillable() -> None:
    gang = Gang(1, grace=10)
    gang.stop("cancel")
    gang.timer("grace")
    gang.timer("unkillable")
    assert gang.outcome is not None
    assert gang.outcome.kind == "unkillable"


def test_an_end_that_nobody_saw_is_a_failure_without_a_code() -> None:
    gang = Gang(1, grace=10)
    gang.exited(Exit(0, None, 1.0))
    assert gang.outcome is not None
    assert gang.outcome.kind == "failed"
    assert gang.outcome.first == Exit(0, None, 1.0)


def test_a_stop_after_the_last_end_changes_nothing() -> None:
    gang = Gang(1, grace=10)
    gang.exited(Exit(0, 0, 1.0))
    assert gang.stop("cancel") == []
    assert gang.outcome is not None


step = st.one_of(
    st.tuples(st.just("exit"), st.integers(0, 3), st.sampled_from([0, 1, -9, -15, None]), st.booleans()),
    st.tuples(st.just("stop"), st.sampled_from(["cancel", "suspend", "deadline"])),
    st.tuples(st.just("timer"), st.just("grace")),
)


@given(st.lists(step, max_size=20))
def test_every_order_of_events_ends_in_exactly_one_outcome(steps: list[tuple[object, ...]]) -> None:
    gang = Gang(4, grace=1)
    ended: set[int] = set()
    asked = 0
    for index, (kind, *rest) in enumerate(steps):
        commands: list[Command] = []
        if kind == "exit" and rest[0] not in ended:
            rank, code, blamed = rest
            ended.add(rank)  # type: ignore[arg-type]
            commands = gang.exited(Exit(rank, code, float(index), blamed))  # type: ignore[arg-type]
        elif kind == "stop":
            commands = gang.stop(str(rest[0]))
        elif kind == "timer":
            commands = gang.timer("grace")
        asked += sum(isinstance(command, Terminate) for command in commands)
        for command in commands:
            if not isinstance(command, StartTimer):
                assert command.ranks <= gang.alive
        assert (gang.outcome is None) == (len(ended) < 4)
    assert asked <= 1
