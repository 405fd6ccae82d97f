"""The code blocks of Kubeflow's announcement of its SDK, with the import root changed and nothing else.

Each runs as a script of its own, with KFASYNC_BACKEND=local; another process then looks at what it left.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.local.conftest import end_supervisors

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]

TRAIN_MODEL = """
from kfasync.trainer import TrainerClient

def train_model():
    import torch

    model = torch.nn.Linear(10, 1)
    optimizer = torch.optim.Adam(model.parameters())

    # Training loop
    for epoch in range(10):
        # Your training logic
        pass

    torch.save(model.state_dict(), "model.pt")

# Create a client and train
client = TrainerClient()
client.train(train_func=train_model)
"""

GLOO = '''
from kfasync.trainer import TrainerClient, CustomTrainer

def get_torch_dist():
    """Your PyTorch training code runs on each node."""
    import os
    import torch
    import torch.distributed as dist

    dist.init_process_group(backend="gloo")
    print("PyTorch Distributed Environment")
    print(f"WORLD_SIZE: {dist.get_world_size()}")
    print(f"RANK: {dist.get_rank()}")
    print(f"LOCAL_RANK: {os.environ['LOCAL_RANK']}")

# Create the TrainJob
job_id = TrainerClient().train(
    runtime=TrainerClient().get_runtime("torch-distributed"),
    trainer=CustomTrainer(
        func=get_torch_dist,
        num_nodes=3,
        resources_per_node={
            "cpu": 2,
        },
    ),
)

# Wait for TrainJob to complete
TrainerClient().wait_for_job_status(job_id)

# Print TrainJob logs
print("\\n".join(TrainerClient().get_job_logs(name=job_id)))
'''

LOCAL = """
from kfasync.trainer.backends.localprocess import LocalProcessBackendConfig

config = LocalProcessBackendConfig()
client = TrainerClient(config)

# Runs directly on your machine - no containers, no cluster
client.train(train_func=train_model)
"""

TEMPLATE = '''
from kfasync.trainer import TrainerClient, CustomTrainer
from kfasync.trainer import TrainJobTemplate

def train_func(learning_rate: float, batch_size: int):
    """Training function with hyperparameters."""
    # Your training code here
    import time
    import random

    for i in range(10):
        time.sleep(1)
        print(f"Training {i}, lr: {learning_rate}, batch_size: {batch_size}")

    print(f"loss={round(random.uniform(0.77, 0.99), 2)}")


# Create a reusable template
template = TrainJobTemplate(
    trainer=CustomTrainer(
        func=train_func,
        func_args={"learning_rate": "0.01", "batch_size": "16"},
        num_nodes=2,
        resources_per_node={"gpu": 1},
    ),
    runtime=TrainerClient().get_runtime("torch-distributed"),
)

# Verify that your TrainJob is working with test hyperparameters.
TrainerClient().train(**template)
'''

OPTIMIZER = (
    TEMPLATE.replace("time.sleep(1)", "time.sleep(0.01)")
    + """
from kfasync.optimizer import OptimizerClient, Search, TrialConfig

optimizer = OptimizerClient()

job_name = optimizer.optimize(
    # The same template can be used for Hyperparameter Optimisation
    trial_template=template,
    search_space={
        "learning_rate": Search.loguniform(0.001, 0.1),
        "batch_size": Search.choice([16, 32, 64, 128]),
    },
    trial_config=TrialConfig(
        num_trials=20,
        parallel_trials=4,
        max_failed_trials=5,
    ),
)

# Verify OptimizationJob was created
optimizer.get_job(job_name)

# Wait for OptimizationJob to complete
optimizer.wait_for_job_status(job_name)

# Get the best hyperparameters and metrics from an OptimizationJob
best_results = optimizer.get_best_results(job_name)
print(best_results)

# See all the trials (TrainJobs) created during optimization
job = optimizer.get_job(job_name)
print(job.trials)
"""
)

# Run by another process, after the script has ended: the study is there for everybody.
LOOK_AT_STUDIES = """
import json
from kfasync.optimizer import OptimizerClient

client = OptimizerClient()
told = []
for job in client.list_jobs():
    best = client.get_best_results(job.name)
    told.append({"status": job.status, "trials": [[t.status, t.parameters, t.metrics[0].latest] for t in job.trials],
                 "best": [best.parameters, best.metrics[0].latest], "lines": list(client.get_job_logs(job.name)),
                 "reasons": [event.reason for event in client.get_job_events(job.name)]})
    client.delete_job(job.name)
print(json.dumps(told))
"""

# Run by another process, after the script has ended: waits for every job and tells what became of it.
LOOK = """
import json
from kfasync.trainer import TrainerClient

client = TrainerClient()
told = []
for job in client.list_jobs():
    done = client.wait_for_job_status(job.name, timeout=120)
    handle = client.attach(job.name)
    ranks = [(rank.pid, rank.start_time) for rank in handle.state().ranks]
    files = [str(path) for path in handle.files()]
    metrics = {name: metric.latest for name, metric in client.get_job_metrics(job.name).items()}
    lines = list(client.get_job_logs(job.name, step=None))
    warnings = [reason for reason, _ in handle.state().warnings]
    told.append({"status": done.status, "ranks": ranks, "files": files, "metrics": metrics, "lines": lines,
                 "warnings": warnings})
print(json.dumps(told))
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[object]:
    home = tmp_path / "home"
    environ = {**os.environ, "KFASYNC_HOME": str(home), "KFASYNC_BACKEND": "local"}

    def run_script(text: str) -> str:
        script = tmp_path / "script.py"
        script.write_text(text)
        command = [sys.executable, str(script)]
        return subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True, timeout=180).stdout

    yield run_script
    end_supervisors(home)


def look(run: object) -> list[dict[str, object]]:
    told: list[dict[str, object]] = json.loads(run(LOOK))  # type: ignore[operator]
    return told


def loads(path: str) -> bool:
    program = "import sys, torch; print(sorted(torch.load(sys.argv[1])))"
    told = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True)
    return told.stdout == "['bias', 'weight']\n"


def test_the_first_block_leaves_a_model(run: object) -> None:
    run(TRAIN_MODEL)  # type: ignore[operator]
    (job,) = look(run)
    assert job["status"] == "Complete"
    (path,) = job["files"]  # type: ignore[misc]
    assert Path(path).name == "model.pt"
    assert loads(path)


def test_three_nodes_meet_over_gloo(run: object) -> None:
    printed = run(GLOO)  # type: ignore[operator]
    assert "WORLD_SIZE: 3" in printed
    assert "RANK: 0" in printed
    (job,) = look(run)
    assert job["status"] == "Complete"
    ranks = {tuple(rank) for rank in job["ranks"]}  # type: ignore[attr-defined]
    assert len(ranks) == 3
    assert [f"[node-{node}] RANK: {node}" in job["lines"] for node in range(3)] == [True] * 3  # type: ignore[operator]


def test_the_local_block_runs_with_its_config(run: object) -> None:
    run(TRAIN_MODEL.replace("client = TrainerClient()\nclient.train(train_func=train_model)", LOCAL))  # type: ignore[operator]
    (job,) = look(run)
    assert job["status"] == "Complete"
    assert loads(job["files"][0])  # type: ignore[index]


def test_a_template_that_asks_for_a_missing_gpu_runs_with_a_warning(run: object) -> None:
    run(TEMPLATE)  # type: ignore[operator]
    (job,) = look(run)
    assert job["status"] == "Complete"
    assert job["warnings"] == ["NoGPU"]
    assert 0.77 <= job["metrics"]["loss"] <= 0.99  # type: ignore[index]
    assert len({tuple(rank) for rank in job["ranks"]}) == 2  # type: ignore[attr-defined]


def test_the_optimizer_block_finds_the_best_of_twenty_trials(run: object) -> None:
    printed = run(OPTIMIZER)  # type: ignore[operator]
    assert "Result(parameters={" in printed
    assert printed.count("<Trial ") == 20
    (study,) = json.loads(run(LOOK_AT_STUDIES))  # type: ignore[operator]
    assert study["status"] == "Complete"
    assert [status for status, _, _ in study["trials"]] == ["complete"] * 20
    for _, parameters, loss in study["trials"]:
        assert 0.001 <= parameters["learning_rate"] <= 0.1
        assert parameters["batch_size"] in (16, 32, 64, 128)
        assert 0.77 <= loss <= 0.99
    parameters, loss = study["best"]
    assert loss == min(loss for _, _, loss in study["trials"])
    assert study["lines"][0] == f"Training 0, lr: {parameters['learning_rate']}, batch_size: {parameters['batch_size']}"
    assert (study["reasons"].count("TrialStarted"), study["reasons"][-1]) == (20, "Complete")
    # Only the job that verified the template is left.
    assert len(look(run)) == 1
