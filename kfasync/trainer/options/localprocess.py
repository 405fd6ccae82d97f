"""Options of local processes, under Kubeflow's import path; those of `kfasync.trainer.options` work there, too."""
