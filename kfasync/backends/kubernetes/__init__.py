"""Kubernetes with Kubeflow Trainer: the settings. This version can't run jobs there yet."""
