"""What a client is given to run jobs as processes of this machine."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

__all__ = ["LocalProcessBackendConfig"]


class LocalProcessBackendConfig(BaseModel, extra="forbid"):
    """Run jobs as processes of this machine.

    Attributes:
        cleanup_venv: Whether an environment made for a job's packages may be collected when the job has ended; the
            collector keeps the recently used ones.
        strict: Whether a GPU that the machine lacks is an error instead of a warning.
    """

    backend_path: ClassVar[str] = "kfasync.backends.local:LocalBackend"

    cleanup_venv: bool = Field(default=True)
    strict: bool = Field(default=False)
