"""The engine: submits, follows and controls the jobs of one place from one event loop, and never polls."""

from kfasync.engine._backoff import UNDECIDED, Backoff
from kfasync.engine._engine import Engine
from kfasync.engine._handle import JobHandle

__all__ = ["UNDECIDED", "Backoff", "Engine", "JobHandle"]
