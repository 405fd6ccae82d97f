"""Options of ``train``: callables ``(job_spec, trainer, backend)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfasync._lazy import attach, homes

if TYPE_CHECKING:
    from kfasync.jobs._options import (
        ActiveDeadlineSeconds,
        Annotations,
        Labels,
        Name,
        RuntimePatch,
        TrainerArgs,
        TrainerCommand,
    )
    from kfasync.jobs._patches import (
        ContainerPatch,
        JobSetSpecPatch,
        JobSetTemplatePatch,
        JobSpecPatch,
        JobTemplatePatch,
        PodSpecPatch,
        PodTemplatePatch,
        ReplicatedJobPatch,
        TrainingRuntimeSpecPatch,
    )

__all__ = [
    "ActiveDeadlineSeconds",
    "Annotations",
    "ContainerPatch",
    "JobSetSpecPatch",
    "JobSetTemplatePatch",
    "JobSpecPatch",
    "JobTemplatePatch",
    "Labels",
    "Name",
    "PodSpecPatch",
    "PodTemplatePatch",
    "ReplicatedJobPatch",
    "RuntimePatch",
    "TrainerArgs",
    "TrainerCommand",
    "TrainingRuntimeSpecPatch",
]

_NAMES = {
    "kfasync.jobs._options": "ActiveDeadlineSeconds Annotations Labels Name RuntimePatch TrainerArgs TrainerCommand",
    "kfasync.jobs._patches": (
        "ContainerPatch JobSetSpecPatch JobSetTemplatePatch JobSpecPatch JobTemplatePatch PodSpecPatch "
        "PodTemplatePatch ReplicatedJobPatch TrainingRuntimeSpecPatch"
    ),
}

__getattr__, __dir__ = attach(__name__, homes(*_NAMES.items()))
