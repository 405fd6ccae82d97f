"""The nested patches of `RuntimePatch`, in the form of Kubeflow Trainer's ``spec.runtimePatches``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from kfasync.errors import InvalidSpecError

__all__ = [
    "ContainerPatch",
    "JobSetSpecPatch",
    "JobSetTemplatePatch",
    "JobSpecPatch",
    "JobTemplatePatch",
    "PodSpecPatch",
    "PodTemplatePatch",
    "ReplicatedJobPatch",
    "TrainingRuntimeSpecPatch",
    "to_api",
]

_SOURCES = ("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef")


@dataclass
class ContainerPatch:
    """Patch one container of a pod.

    Args:
        name: The container; it must exist in the runtime.
        env: Variables in Kubernetes' form: ``{"name": …, "value": …}`` or ``{"name": …, "valueFrom": {…}}``.
        volume_mounts: Mounts in Kubernetes' form: ``{"name": …, "mountPath": …}``.
        security_context: Its security context.
    """

    name: str
    env: list[dict[str, Any]] | None = None
    volume_mounts: list[dict[str, Any]] | None = None
    security_context: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.name.strip():
            raise InvalidSpecError("ContainerPatch needs the name of a container")
        for variable in _dicts("env", self.env):
            _check_variable(variable)
        for mount in _dicts("volume_mounts", self.volume_mounts):
            path = mount.get("mountPath")
            if not mount.get("name") or not isinstance(path, str) or not path.startswith("/"):
                raise InvalidSpecError(f"volume_mounts entry {mount!r} needs 'name' and an absolute 'mountPath'")


@dataclass
class PodSpecPatch:
    """Patch what a manager may change of a pod's spec.

    Args:
        service_account_name: Service account.
        volumes: Volumes to add.
        init_containers: Init containers to patch.
        containers: Containers to patch.
        image_pull_secrets: Secrets for pulling images.
        security_context: The pod's security context.
        node_selector: Labels that the node must have.
        affinity: Affinity rules.
        tolerations: Taints to tolerate.
        scheduling_gates: Gates that hold back the scheduling.
        termination_grace_period_seconds: Seconds between SIGTERM and SIGKILL.
    """

    service_account_name: str | None = None
    volumes: list[dict[str, Any]] | None = None
    init_containers: list[ContainerPatch] | None = None
    containers: list[ContainerPatch] | None = None
    image_pull_secrets: list[dict[str, Any]] | None = None
    security_context: dict[str, Any] | None = None
    node_selector: dict[str, str] | None = None
    affinity: dict[str, Any] | None = None
    tolerations: list[dict[str, Any]] | None = None
    scheduling_gates: list[dict[str, Any]] | None = None
    termination_grace_period_seconds: int | None = None


@dataclass
class PodTemplatePatch:
    """Patch the pods of a Job: labels and annotations in ``metadata``, the rest in ``spec``."""

    metadata: dict[str, Any] | None = None
    spec: PodSpecPatch | None = None


@dataclass
class JobSpecPatch:
    """Patch the spec of a Job."""

    template: PodTemplatePatch | None = None


@dataclass
class JobTemplatePatch:
    """Patch a Job: labels and annotations in ``metadata``, the rest in ``spec``."""

    metadata: dict[str, Any] | None = None
    spec: JobSpecPatch | None = None


@dataclass
class ReplicatedJobPatch:
    """Patch one replicated job of the JobSet, such as ``node`` or ``launcher``."""

    name: str
    template: JobTemplatePatch | None = None


@dataclass
class JobSetSpecPatch:
    """Patch the spec of the JobSet."""

    replicated_jobs: list[ReplicatedJobPatch] | None = None


@dataclass
class JobSetTemplatePatch:
    """Patch the JobSet: labels and annotations in ``metadata``, the rest in ``spec``."""

    metadata: dict[str, Any] | None = None
    spec: JobSetSpecPatch | None = None


@dataclass
class TrainingRuntimeSpecPatch:
    """Patch the spec of the training runtime."""

    template: JobSetTemplatePatch | None = None


def to_api(patch: Any) -> Any:
    """A patch in the API's form: camelCase keys, and without what was not given."""
    if isinstance(patch, list):
        return [to_api(item) for item in patch]
    if not dataclasses.is_dataclass(patch) or isinstance(patch, type):
        return patch
    api: dict[str, Any] = {}
    for f in dataclasses.fields(patch):
        value = getattr(patch, f.name)
        converted = to_api(value)
        # A nested patch that says nothing goes; an empty dict that the user wrote stays.
        says_nothing = value is None or (not converted and not isinstance(value, dict | str | int))
        if not says_nothing:
            api[_camel(f.name)] = converted
    return api


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _dicts(what: str, value: object) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidSpecError(f"{what} must be a list of dicts in Kubernetes' form, not {value!r}")
    return value


def _check_variable(variable: dict[str, Any]) -> None:
    if not variable.get("name"):
        raise InvalidSpecError(f"env entry {variable!r} needs a 'name'")
    if "value" not in variable and "valueFrom" not in variable:
        raise InvalidSpecError(f"env entry {variable['name']!r} needs 'value' or 'valueFrom'")
    source = variable.get("valueFrom", {_SOURCES[0]: {}})
    if not isinstance(source, dict) or not any(key in source for key in _SOURCES):
        raise InvalidSpecError(f"env entry {variable['name']!r}: 'valueFrom' needs one of {', '.join(_SOURCES)}")
