"""What runs inside a job: the bootstrap of a rank, and what training code may call.

Standard library only, and nothing else of kfasync: the files of this package travel into containers and pods as they
are. Whatever is slow to import is imported where it is used, because a rank pays for it before the user's first line.
"""

from __future__ import annotations

from ._checkpoint import checkpoint_dir
from ._parameters import PARAMETERS, PREFIX, get_hyperparameters
from ._report import MARK, progress, report, report_metrics
from ._run import PROTOCOL, run_rank
from ._status import update_trainjob_status
from ._stop import should_stop

__all__ = [
    "MARK",
    "PARAMETERS",
    "PREFIX",
    "PROTOCOL",
    "checkpoint_dir",
    "get_hyperparameters",
    "progress",
    "report",
    "report_metrics",
    "run_rank",
    "should_stop",
    "update_trainjob_status",
]
