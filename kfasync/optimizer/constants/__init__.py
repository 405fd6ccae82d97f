"""Kubeflow's import path of the constants: ``from kfasync.optimizer.constants import constants``."""
