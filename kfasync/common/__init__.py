"""Kubeflow's import path of what its products share."""
