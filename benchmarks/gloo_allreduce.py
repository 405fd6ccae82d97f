"""A gloo all_reduce of two ranks: from ``train()`` to done, warm."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import Figure, main, own_home

CLAIM = "2-rank gloo all_reduce, warm, train() to done: at most 200 ms (median)"

BODY = """
import torch
import torch.distributed as dist

def all_reduce():
    dist.init_process_group(backend="gloo")
    tensor = torch.ones(1024)
    dist.all_reduce(tensor)
    assert tensor[0].item() == dist.get_world_size()
    dist.destroy_process_group()
"""


def all_reduce() -> float:
    import torch
    import torch.distributed as dist

    dist.init_process_group(backend="gloo")
    tensor = torch.ones(1024)
    dist.all_reduce(tensor)
    dist.destroy_process_group()
    return float(tensor[0].item())


def ours(repeats: int) -> Figure:
    from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient

    client = TrainerClient(LocalProcessBackendConfig())
    figure = Figure("kfasync")
    for _ in range(repeats + 1):
        begin = time.monotonic_ns()
        name = client.train(trainer=CustomTrainer(func=all_reduce, num_nodes=2))
        client.wait_for_job_status(name)
        figure.samples.append((time.monotonic_ns() - begin) / 1e6)
        assert client.attach(name).results() == {0: 2.0, 1: 2.0}
    del figure.samples[0]
    return figure


def torchrun(repeats: int) -> Figure:
    figure = Figure("torchrun")
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "train.py"
        script.write_text(f"{BODY}\nall_reduce()\n")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        for _ in range(repeats):
            begin = time.monotonic_ns()
            subprocess.run(command, check=True, capture_output=True)
            figure.samples.append((time.monotonic_ns() - begin) / 1e6)
    return figure


# What no launcher can avoid: two forks of a torch-loaded process, the rendezvous, the collective.
FORK = """
import json, os, socket, sys, time
samples = []
for _ in range(int(sys.argv[1])):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.monotonic_ns()
    pids = []
    for rank in range(2):
        pid = os.fork()
        if not pid:
            os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            all_reduce()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    samples.append((time.monotonic_ns() - begin) / 1e6)
print(json.dumps(samples))
"""


def fork(repeats: int) -> Figure:
    command = [sys.executable, "-c", BODY + FORK, str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Figure("limit: two forks of a torch-loaded process", json.loads(done.stdout))


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home():
        figures = [ours(args.repeats)]
    if args.rivals:
        figures.append(torchrun(min(args.repeats, 3)))
    return [*figures, fork(args.repeats)]


if __name__ == "__main__":
    main(CLAIM, measure)
