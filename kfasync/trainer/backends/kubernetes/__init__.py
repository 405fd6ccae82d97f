"""The config for Kubernetes, under Kubeflow's import path."""

from kfasync.backends.kubernetes._config import KubernetesBackendConfig

__all__ = ["KubernetesBackendConfig"]
