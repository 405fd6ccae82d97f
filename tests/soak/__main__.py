"""``python -m tests.soak [jobs|study] [HOW_MANY [SEED]]``: a soak in full, in a home of its own; prints what it found.

``jobs`` is meant where none is named, 1000 of them; a study has 500 trials.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from kfasync.testing import chaos
from tests.soak import local, study

SOAKS = {"jobs": (local.soak, 1000), "study": (study.soak, 500)}

if __name__ == "__main__":
    words = sys.argv[1:]
    soak, many = SOAKS[words.pop(0) if words and words[0] in SOAKS else "jobs"]
    many, seed = (*map(int, words), *(many, 1)[len(words) :])
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        os.environ["KFASYNC_HOME"] = str(home)
        try:
            print(asyncio.run(soak(Path(directory), many, seed)))
        finally:
            asyncio.run(chaos.end_supervisor(home))
            chaos.end_ranks(home)
