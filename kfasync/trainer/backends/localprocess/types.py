"""The config for local processes, under Kubeflow's import path."""

from kfasync.backends.local._config import LocalProcessBackendConfig

__all__ = ["LocalProcessBackendConfig"]
