"""Cold: from the start of the user's process to the function's first line, with nothing running."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import Figure, main, own_home, rival, stamped

CLAIM = "cold, process start to the first line: at most 2.2 s with torch, 0.6 s without (median)"

PLAIN = """
import sys
from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient

def train(path):
    import time
    now = time.monotonic_ns()
    with open(path, "w") as file:
        file.write(str(now))

client = TrainerClient(LocalProcessBackendConfig())
name = client.train(trainer=CustomTrainer(func=train, func_args={"path": sys.argv[1]}))
client.wait_for_job_status(name)
"""
# Torch is there at the first line that can use it.
WITH_TORCH = PLAIN.replace("    import time\n", "    import time, torch\n", 1)


def ours(repeats: int, code: str, label: str) -> Figure:
    figure = Figure(label, unit="s")
    with tempfile.TemporaryDirectory() as directory:
        for number in range(repeats):
            path = Path(directory) / str(number)
            script = Path(directory) / "user.py"
            script.write_text(code)
            with own_home():
                begin = time.monotonic_ns()
                subprocess.run([sys.executable, str(script), str(path)], check=True)
                figure.samples.append((stamped(path) - begin) / 1e9)
    return figure


def import_torch(repeats: int) -> Figure:
    figure = Figure("limit: python -c 'import torch'", unit="s")
    for _ in range(repeats):
        begin = time.monotonic_ns()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        figure.samples.append((time.monotonic_ns() - begin) / 1e9)
    return figure


RAY = """
import json, subprocess, sys, time
code = '''
import ray, sys, time
ray.init(log_to_driver=False)
@ray.remote
def train():
    import time
    return time.monotonic_ns()
print(ray.get(train.remote()))
'''
samples = []
for _ in range(int(sys.argv[1])):
    begin = time.monotonic_ns()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    samples.append((int(done.stdout.split()[-1]) - begin) / 1e9)
print(json.dumps(samples))
"""


def measure(args: argparse.Namespace) -> list[Figure]:
    figures = [
        ours(args.repeats, WITH_TORCH, "kfasync, with torch"),
        ours(args.repeats, PLAIN, "kfasync, without torch"),
    ]
    if args.rivals:
        figures += rival("KFASYNC_BENCH_RAY", "Ray task, without torch", RAY, str(args.repeats), unit="s")
    return [*figures, import_torch(args.repeats)]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=5)
