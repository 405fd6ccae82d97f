"""The whole suite in one class."""

from __future__ import annotations

import pytest

_PARTS = ("_submit", "_wait", "_logs", "_metrics", "_control", "_clients", "_payload", "_checkpoints")
# So that a failing assertion of the suite shows its values, as one of the user's own tests does.
pytest.register_assert_rewrite(*(f"kfasync.testing.conformance.{part}" for part in _PARTS))

from kfasync.testing.conformance._checkpoints import CheckpointTests  # noqa: E402
from kfasync.testing.conformance._clients import ClientTests  # noqa: E402
from kfasync.testing.conformance._control import ControlTests  # noqa: E402
from kfasync.testing.conformance._logs import LogTests  # noqa: E402
from kfasync.testing.conformance._metrics import MetricTests  # noqa: E402
from kfasync.testing.conformance._payload import PayloadTests  # noqa: E402
from kfasync.testing.conformance._submit import SubmitTests  # noqa: E402
from kfasync.testing.conformance._wait import WaitTests  # noqa: E402

__all__ = ["BackendConformance"]


@pytest.mark.anyio
class BackendConformance(
    SubmitTests, WaitTests, LogTests, MetricTests, ControlTests, ClientTests, PayloadTests, CheckpointTests
):
    """Every guarantee that a backend gives, tested through `kfasync.trainer.AsyncTrainerClient`.

    Subclass it in a test module, define ``config()``, and declare in ``missing`` what the place can't do. The tests
    need pytest and the anyio plugin that comes with kfasync; each waits for events only, and fails after ``patience``
    seconds.

    Example:
        >>> class TestMine(BackendConformance):
        ...     missing = {"suspend": "the scheduler has no way to hold a job"}
        ...     patience = 120.0
        ...
        ...     def config(self):
        ...         return MyBackendConfig()
    """
