"""The guarantees that every backend gives, as tests: subclass `BackendConformance` and run pytest.

::

    from kfasync.testing.conformance import BackendConformance

    class TestMine(BackendConformance):
        missing = {"suspend": "the scheduler has no way to hold a job"}

        def config(self):
            return MyBackendConfig()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach

if TYPE_CHECKING:
    from kfasync.testing.conformance._base import CAPABILITIES, guarantee
    from kfasync.testing.conformance._suite import BackendConformance

__all__ = ["CAPABILITIES", "BackendConformance", "guarantee"]

# Lazy: a rank that runs one of the suite's functions imports this package, and needs no pytest for that.
__getattr__, __dir__ = attach(
    __name__,
    {
        "BackendConformance": "kfasync.testing.conformance._suite",
        "CAPABILITIES": "kfasync.testing.conformance._base",
        "guarantee": "kfasync.testing.conformance._base",
    },
)
