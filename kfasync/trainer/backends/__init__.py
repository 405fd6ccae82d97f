"""Kubeflow's import paths of the backend configs."""
