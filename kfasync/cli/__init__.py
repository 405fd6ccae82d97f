"""The ``kfasync`` command."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    from kfasync.cli._app import run

    sys.exit(run(sys.argv[1:]))
