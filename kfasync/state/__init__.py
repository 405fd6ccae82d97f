"""What is true of the jobs and what may happen next: the lifecycle, admission and retry rules, and the journal."""

from kfasync.state._admission import Admission, Claim, Grant
from kfasync.state._job import TERMINAL, Failure, JobState, Progress, RankState, Status, StepState
from kfasync.state._journal import Journal
from kfasync.state._lifecycle import is_news, reduce
from kfasync.state._metrics import MetricSummary, Reported, parse_metrics, parse_report
from kfasync.state._retry import next_attempt
from kfasync.state._stop import stop_reason
from kfasync.state._store import replay, verify

__all__ = [
    "TERMINAL",
    "Admission",
    "Claim",
    "Failure",
    "Grant",
    "JobState",
    "Journal",
    "MetricSummary",
    "Progress",
    "RankState",
    "Reported",
    "Status",
    "StepState",
    "is_news",
    "next_attempt",
    "parse_metrics",
    "parse_report",
    "reduce",
    "replay",
    "stop_reason",
    "verify",
]
