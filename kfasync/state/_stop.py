"""What a stop makes of a job, by its cause. Pure."""

from __future__ import annotations

__all__ = ["stop_reason"]

# Reason and default message. "suspend" is not here: it is no failure.
_REASONS = {
    "cancel": ("Cancelled", "cancelled on request"),
    "prune": ("Pruned", "stopped early: it could not become the best"),
    "deadline": ("DeadlineExceeded", "it was still running at its active deadline"),
    "start-deadline": ("StartDeadlineExceeded", "it was not running at its start deadline"),
}


def stop_reason(cause: str, message: str) -> tuple[str, str]:
    """Reason and message of a job that was stopped for good.

    Args:
        cause: That of its `StopRequested`.
        message: What was said with it; empty takes the usual words.

    Example:
        >>> stop_reason("cancel", "")
        ('Cancelled', 'cancelled on request')
    """
    reason, default = _REASONS.get(cause, _REASONS["cancel"])
    return reason, message or default
