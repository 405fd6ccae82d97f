from __future__ import annotations

from tests.worker.ranks import forker, ranks

__all__ = ["forker", "ranks"]
