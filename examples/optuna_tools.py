"""Search with a script as the trial, then read the study with Optuna's own tools."""

from __future__ import annotations

import tempfile
from pathlib import Path

import optuna

from kfasync.optimizer import Search, TrialConfig, export_study, optuna_storage
from kfasync.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient, TrainJobTemplate

SCRIPT = """
import kfasync

given = kfasync.get_hyperparameters()
for step in range(5):
    kfasync.report_metrics({"loss": (given["x"] - 0.3) ** 2 + 1 / (step + given["depth"])}, step=step)
"""


def main() -> None:
    client = TrainerClient(LocalProcessBackendConfig())
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT)
        name = client.optimize(
            TrainJobTemplate(trainer=CustomTrainer(func=script)),
            search_space={"x": Search.uniform(0, 1), "depth": Search.int(1, 8)},
            trial_config=TrialConfig(num_trials=8, parallel_trials=2),
        )
        print("study", client.wait_for_optimization_job_status(name).status)

        # While it runs, too; `optuna_dashboard.run_server(optuna_storage())` serves all studies of this machine.
        study = optuna.load_study(study_name=name, storage=optuna_storage())
        for trial in study.trials:
            print(trial.number, trial.state.name, trial.params, f"{trial.value:.4f}", len(trial.intermediate_values))
        print(
            "best:", study.best_trial.number, study.best_trial.user_attrs["job"] == f"{name}-{study.best_trial.number}"
        )

        copy = f"sqlite:///{folder}/copy.db"
        export_study(name, copy)
        print("copied:", len(optuna.load_study(study_name=name, storage=copy).trials))
    client.delete_optimization_job(name)


if __name__ == "__main__":
    main()
