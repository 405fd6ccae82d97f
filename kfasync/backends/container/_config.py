"""What a client is given to run jobs in containers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

__all__ = ["ContainerBackendConfig", "TrainingRuntimeSource"]


class TrainingRuntimeSource(BaseModel, extra="forbid"):
    """Where runtime definitions come from; the first source that has a name wins.

    Attributes:
        sources: ``github://owner/repo``, ``https://…``, ``file:///…`` or an absolute path.
    """

    sources: list[str] = Field(default_factory=lambda: ["github://kubeflow/trainer"])


class ContainerBackendConfig(BaseModel, extra="forbid"):
    """Run jobs in containers of Docker or Podman.

    Attributes:
        pull_policy: IfNotPresent, Always or Never.
        auto_remove: Whether containers and networks go when their job is deleted.
        container_host: Address of the daemon; None asks the environment.
        container_runtime: ``docker`` or ``podman``; None takes what is there.
        runtime_source: Where runtime definitions come from.
        dataset_initializer_image: Image that fetches datasets.
        model_initializer_image: Image that fetches models.
        initializer_timeout: Seconds that an initializer may take.
    """

    #: Empty: no backend in this version.
    backend_path: ClassVar[str] = ""

    pull_policy: str = Field(default="IfNotPresent")
    auto_remove: bool = Field(default=True)
    container_host: str | None = Field(default=None)
    container_runtime: Literal["docker", "podman"] | None = Field(default=None)
    runtime_source: TrainingRuntimeSource = Field(default_factory=TrainingRuntimeSource)
    dataset_initializer_image: str = Field(default="ghcr.io/kubeflow/trainer/dataset-initializer:latest")
    model_initializer_image: str = Field(default="ghcr.io/kubeflow/trainer/model-initializer:latest")
    initializer_timeout: int = Field(default=600)
