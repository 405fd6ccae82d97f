"""From ``train()`` to the function's first line, torch loaded, everything warm."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import Figure, main, own_home, rival, stamped

CLAIM = "train() to the function's first line, torch loaded, warm: at most 20 ms (median)"


def first_line(path: str) -> None:
    import time

    now = time.monotonic_ns()
    import sys

    assert "torch" in sys.modules
    import torch

    assert torch.__version__
    with open(path, "w") as file:
        file.write(str(now))


def ours(repeats: int) -> Figure:
    from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient

    client = TrainerClient(LocalProcessBackendConfig())
    figure = Figure("kfasync", note="a fork of a torch-loaded zygote")
    with tempfile.TemporaryDirectory() as directory:
        for number in range(repeats + 2):
            path = Path(directory) / str(number)
            begin = time.monotonic_ns()
            name = client.train(trainer=CustomTrainer(func=first_line, func_args={"path": str(path)}))
            client.wait_for_job_status(name)
            # The first two make the zygote and its spare child.
            if number >= 2:
                figure.samples.append((stamped(path) - begin) / 1e6)
    return figure


FORK = """
import json, os, sys, time
import torch
samples = []
for _ in range(int(sys.argv[1])):
    read, write = os.pipe()
    begin = time.monotonic_ns()
    pid = os.fork()
    if not pid:
        os.write(write, str(time.monotonic_ns()).encode())
        os._exit(0)
    samples.append((int(os.read(read, 64)) - begin) / 1e6)
    os.waitpid(pid, 0)
    os.close(read), os.close(write)
print(json.dumps(samples))
"""

SUBMITIT = """
import json, logging, sys, tempfile, time
import submitit

def first_line():
    import time
    return time.monotonic_ns()

samples = []
with tempfile.TemporaryDirectory() as folder:
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(timeout_min=5)
    for _ in range(int(sys.argv[1])):
        begin = time.monotonic_ns()
        samples.append((executor.submit(first_line).result() - begin) / 1e6)
print(json.dumps(samples))
"""

RAY = """
import json, sys, time
import ray
ray.init(log_to_driver=False)

@ray.remote
class Actor:
    def first_line(self):
        import time
        return time.monotonic_ns()

samples = []
for _ in range(int(sys.argv[1]) + 2):
    begin = time.monotonic_ns()
    actor = Actor.remote()
    samples.append((ray.get(actor.first_line.remote()) - begin) / 1e6)
    ray.kill(actor)
print(json.dumps(samples[2:]))
"""

# Kubeflow's function arrives as source in a file of its own, so it writes its moment into the path that it is given.
KUBEFLOW = """
import json, sys, tempfile, time
from pathlib import Path
from kubeflow.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient

def first_line(parameters):
    import time
    now = time.monotonic_ns()
    open(parameters["path"], "w").write(str(now))

samples = []
client = TrainerClient(LocalProcessBackendConfig())
with tempfile.TemporaryDirectory() as folder:
    for number in range(int(sys.argv[1])):
        path = Path(folder) / str(number)
        begin = time.monotonic_ns()
        trainer = CustomTrainer(func=first_line, func_args={"parameters": {"path": str(path)}})
        name = client.train(runtime=client.get_runtime("torch-distributed"), trainer=trainer)
        client.wait_for_job_status(name, status={"Complete", "Failed"}, timeout=600, polling_interval=1)
        samples.append((int(path.read_text()) - begin) / 1e6)
print(json.dumps(samples))
"""


def fork(repeats: int) -> Figure:
    done = subprocess.run([sys.executable, "-c", FORK, str(repeats)], check=True, capture_output=True, text=True)
    return Figure("limit: fork of a torch-loaded process", json.loads(done.stdout))


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home():
        figures = [ours(args.repeats)]
    if args.rivals:
        few = str(min(args.repeats, 10))
        figures += rival("KFASYNC_BENCH_SUBMITIT", "submitit, local", SUBMITIT, few, note="without torch")
        figures += rival("KFASYNC_BENCH_RAY", "Ray actor", RAY, few, note="without torch")
        figures += rival(
            "KFASYNC_BENCH_KUBEFLOW", "Kubeflow SDK 0.5.0, local", KUBEFLOW, "1", note="a new venv each job"
        )
    return [*figures, fork(args.repeats)]


if __name__ == "__main__":
    main(CLAIM, measure)
