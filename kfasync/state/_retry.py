"""Whether and when a failed group starts again. Pure."""

from __future__ import annotations

from kfasync.jobs import RestartPolicy

__all__ = ["next_attempt"]


def next_attempt(policy: RestartPolicy, restarts: int) -> float | None:
    """Seconds to wait before the next attempt, or None when there shall be none.

    Args:
        policy: The job's policy.
        restarts: How often it was restarted already.

    Example:
        >>> policy = RestartPolicy(max_restarts=3, backoff=1.0)
        >>> [next_attempt(policy, n) for n in range(4)]
        [1.0, 2.0, 4.0, None]
    """
    if restarts >= policy.max_restarts:
        return None
    # 2.0 ** 1024 would overflow; the bound has long been reached there.
    return min(policy.backoff * 2.0 ** min(restarts, 1000), policy.max_backoff)
