"""When a failed group starts again."""

from __future__ import annotations

from kfasync.jobs import RestartPolicy
from kfasync.state import next_attempt


def test_no_restart_is_the_default() -> None:
    assert next_attempt(RestartPolicy(), 0) is None


def test_the_delay_doubles_up_to_its_bound_and_then_no_attempt_is_left() -> None:
    policy = RestartPolicy(max_restarts=5, backoff=10.0, max_backoff=50.0)
    assert [next_attempt(policy, restarts) for restarts in range(6)] == [10.0, 20.0, 40.0, 50.0, 50.0, None]


def test_a_great_many_restarts_do_not_overflow() -> None:
    assert next_attempt(RestartPolicy(max_restarts=10**9, backoff=1.0), 10**8) == 300.0
    assert next_attempt(RestartPolicy(max_restarts=10**9, backoff=0.0), 10**8) == 0.0
