"""What tests of kfasync, and of what stands on it, are made of.

* `FakeBackend`: jobs in memory on a virtual clock, scripted, with faults on request. No patches needed.
* `kfasync.testing.conformance`: the guarantees that every backend gives, as a test class to subclass.
* `kfasync.testing.faults`: what really went wrong for users of such systems, and the check that each case has a test.
* `kfasync.testing.chaos`: kills real processes; finds what a block leaves behind.
* `kfasync.testing.replay`: verifies every journal that a test wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach

if TYPE_CHECKING:
    from kfasync.testing._clock import Timer, VirtualClock
    from kfasync.testing._crash import Crashes, CrashPoint
    from kfasync.testing._fake import FakeBackend, FakeBackendConfig
    from kfasync.testing._inject import Inject
    from kfasync.testing._script import FakeOutOfMemory, FakeRank, FakeScript, plays
    from kfasync.testing._world import FakeWorld

__all__ = [
    "CrashPoint",
    "Crashes",
    "FakeBackend",
    "FakeBackendConfig",
    "FakeOutOfMemory",
    "FakeRank",
    "FakeScript",
    "FakeWorld",
    "Inject",
    "Timer",
    "VirtualClock",
    "plays",
]

_HOMES = {
    "CrashPoint": "kfasync.testing._crash",
    "Crashes": "kfasync.testing._crash",
    "FakeBackend": "kfasync.testing._fake",
    "FakeBackendConfig": "kfasync.testing._fake",
    "FakeOutOfMemory": "kfasync.testing._script",
    "FakeRank": "kfasync.testing._script",
    "FakeScript": "kfasync.testing._script",
    "FakeWorld": "kfasync.testing._world",
    "Inject": "kfasync.testing._inject",
    "Timer": "kfasync.testing._clock",
    "VirtualClock": "kfasync.testing._clock",
    "plays": "kfasync.testing._script",
}

# Lazy: a rank that runs a function of the conformance suite imports this package, and needs no engine for that.
__getattr__, __dir__ = attach(__name__, _HOMES)
