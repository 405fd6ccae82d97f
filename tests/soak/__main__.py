"""``python -m tests.soak [JOBS [SEED]]``: the soak in full, in a home of its own; prints what it found."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from kfasync.testing import chaos
from tests.soak import local

if __name__ == "__main__":
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as directory:
        os.environ["KFASYNC_HOME"] = str(Path(directory) / "home")
        try:
            print(asyncio.run(local.soak(Path(directory), jobs, seed)))
        finally:
            asyncio.run(chaos.end_supervisor(Path(directory) / "home"))
