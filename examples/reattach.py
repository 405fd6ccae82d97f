"""A client dies by kill -9 while its job runs; a new process finds the job, reads its whole log and its result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from kfasync.trainer import LocalProcessBackendConfig, TrainerClient


def train(steps: int) -> str:
    for step in range(steps):
        print(f"step {step}", flush=True)
        time.sleep(0.1)
    return "trained to the end"


def submit_and_die() -> None:
    job = TrainerClient(LocalProcessBackendConfig()).submit(train_func=train, func_args={"steps": 10})
    next(job.logs(follow=True))  # It runs.
    print(job.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    if sys.argv[1:] == ["submit"]:
        submit_and_die()
    first = subprocess.run([sys.executable, __file__, "submit"], stdout=subprocess.PIPE, text=True, check=False)
    name = first.stdout.strip()
    print(f"the first client ended with {first.returncode}; its job is {name}")

    job = TrainerClient(LocalProcessBackendConfig()).attach(name)
    print(f"a new client sees it as {job.state().status.value}")
    for line in job.logs(follow=True):
        print(f"  {line.text}")
    print(f"result: {job.result()}")


if __name__ == "__main__":
    main()
