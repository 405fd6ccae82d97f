"""What an import costs, above a bare start of Python."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from _measure import Figure, main

CLAIM = (
    "from kfasync.trainer import TrainerClient: at most 180 ms; import kfasync: at most 50 ms (median, whole process)"
)


def start(python: str, statement: str, label: str, repeats: int) -> Figure:
    figure = Figure(label)
    for number in range(repeats + 1):
        begin = time.monotonic_ns()
        subprocess.run([python, "-c", statement], check=True, capture_output=True)
        # The first one may have to read the files from disk, or compile them.
        if number:
            figure.samples.append((time.monotonic_ns() - begin) / 1e6)
    return figure


def measure(args: argparse.Namespace) -> list[Figure]:
    trainer = "from kfasync.trainer import TrainerClient"
    figures = [
        start(sys.executable, trainer, "kfasync: TrainerClient", args.repeats),
        start(sys.executable, "import kfasync", "kfasync: import kfasync", args.repeats),
    ]
    if args.rivals and (python := os.environ.get("KFASYNC_BENCH_KUBEFLOW")):
        few = min(args.repeats, 5)
        figures.append(start(python, "from kubeflow.trainer import TrainerClient", "Kubeflow SDK: TrainerClient", few))
    if args.rivals and (python := os.environ.get("KFASYNC_BENCH_RAY")):
        figures.append(start(python, "import ray", "ray", min(args.repeats, 5)))
    return [
        *figures,
        start(sys.executable, "import pydantic; pydantic.BaseModel", "limit: python with pydantic", args.repeats),
        start(sys.executable, "pass", "limit: python -c pass", args.repeats),
    ]


if __name__ == "__main__":
    main(CLAIM, measure)
