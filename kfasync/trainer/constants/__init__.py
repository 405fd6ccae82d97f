"""Kubeflow's import path of the constants: ``from kfasync.trainer.constants import constants``."""
