"""``python …/kfasync/worker/__main__.py ctx.json``: a rank in a fresh interpreter."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Run the rank that the context file describes."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Our modules must not be found under their bare names.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    with open(sys.argv[1], encoding="utf-8") as file:
        context = json.load(file)
    try:
        import kfasync.worker  # noqa: F401
    except ImportError:
        sys.path.append(os.path.dirname(os.path.dirname(here)))
    from kfasync.worker import run_rank

    run_rank(context)


if __name__ == "__main__":
    main()
