"""What a client is given to run jobs on a cluster."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field

__all__ = ["KubernetesBackendConfig"]


class KubernetesBackendConfig(BaseModel, extra="forbid"):
    """Run jobs on a Kubernetes cluster with Kubeflow Trainer.

    Attributes:
        namespace: Namespace of the jobs; None takes the context's.
        config_file: Path of a kubeconfig; None takes the usual one.
        context: Context of the kubeconfig; None takes the current one.
        client_configuration: Configuration of a Kubernetes client library, synchronous or not. It can hold tokens and
            stays out of the repr.
    """

    #: Empty: no backend in this version.
    backend_path: ClassVar[str] = ""

    namespace: str | None = Field(default=None)
    config_file: str | None = Field(default=None)
    context: str | None = Field(default=None)
    client_configuration: Any = Field(default=None, repr=False)
