"""Cold: from the start of the user's process to the first line of a study's first trial, with nothing running."""

from __future__ import annotations

import argparse

from _measure import Figure, main, rival
from cold_start import import_torch, ours

CLAIM = "cold, process start to a study's first trial: at most 2.4 s with torch, 0.9 s without (median)"

PLAIN = """
import sys
from kfasync.optimizer import OptimizerClient, Search, TrainJobTemplate, TrialConfig
from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig

def train(x, path):
    import time
    now = time.monotonic_ns()
    with open(path, "w") as file:
        file.write(str(now))
    print(f"loss={x}")

client = OptimizerClient(LocalProcessBackendConfig())
name = client.optimize(
    TrainJobTemplate(trainer=CustomTrainer(func=train, func_args={"path": sys.argv[1]})),
    search_space={"x": Search.uniform(0, 1)},
    trial_config=TrialConfig(num_trials=1),
)
client.wait_for_job_status(name)
"""
# Torch is there at the first line that can use it.
WITH_TORCH = PLAIN.replace("    import time\n", "    import time, torch\n", 1)
TPE = PLAIN.replace("trial_config=", "algorithm=TPE(), trial_config=").replace("import Opt", "import TPE, Opt")

RAY = """
import json, subprocess, sys, time
code = '''
import time
import ray
from ray import tune
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
def train(config):
    tune.report({"loss": 0.0, "now": time.monotonic_ns()})
results = tune.Tuner(train, param_space={"x": tune.uniform(0, 1)}, run_config=tune.RunConfig(verbose=0)).fit()
print(results[0].metrics["now"])
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
        ours(args.repeats, TPE, "kfasync, TPE, without torch"),
    ]
    if args.rivals:
        figures += rival("KFASYNC_BENCH_RAY", "Ray Tune, without torch", RAY, str(args.repeats), unit="s")
    return [*figures, import_torch(args.repeats)]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=5)
