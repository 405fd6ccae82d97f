"""JobSpec: one job, normalised and serialisable, as every backend receives it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kfasync.errors import InvalidSpecError

__all__ = ["JobSpec", "Resources", "RestartPolicy", "SecretRef", "check_name", "new_name", "parse_quantity"]

# Kubernetes' rule for a TrainJob (RFC 1035 label), kept on every backend so that code moves between them unchanged.
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUANTITY = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)(?P<suffix>m|[kKMGTPE]i?|)")
_SET_BY_TORCHRUN_TRAINER_AND_US = (
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_WORLD_SIZE ROLE_NAME "
    "MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS "
    "TORCHELASTIC_USE_AGENT_STORE TORCHELASTIC_ERROR_FILE PET_NNODES PET_NPROC_PER_NODE PET_NODE_RANK PET_MASTER_ADDR "
    "PET_MASTER_PORT KFASYNC_JOB_NAME KFASYNC_JOB_UID KFASYNC_ATTEMPT KFASYNC_REPORT_FILE KFASYNC_STOP_FILE "
    "KFASYNC_CHECKPOINT_DIR"
)
#: Variables that every place sets for each rank, so that the same code runs on all of them; a job's own values for
#: these are ignored.
RANK_VARIABLES = frozenset(_SET_BY_TORCHRUN_TRAINER_AND_US.split())
_SCALE = {"": 1.0, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SCALE |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)}


def check_name(name: str) -> str:
    """Return the name if Kubernetes would take it for a TrainJob.

    Raises:
        InvalidSpecError: It would not.
    """
    if not isinstance(name, str) or len(name) > 63 or not _NAME.fullmatch(name):
        raise InvalidSpecError(
            f"the job name {name!r} is not valid: use at most 63 lower-case letters, digits and '-', "
            "starting with a letter and ending with a letter or digit"
        )
    return name


def new_name() -> str:
    """A fresh job name in the form Kubeflow uses: a letter and 11 hexadecimal digits."""
    return secrets.choice("abcdefghijklmnopqrstuvwxyz") + secrets.token_hex(6)[:11]


def parse_quantity(value: object, what: str) -> float:
    """A Kubernetes quantity (``2``, ``"300m"``, ``"10G"``, ``"1.5Gi"``) as a number.

    Args:
        value: What the user gave.
        what: The resource's name, for the message.

    Raises:
        InvalidSpecError: It is no quantity.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return float(value)
    elif isinstance(value, str) and (match := _QUANTITY.fullmatch(value.strip())):
        return float(match["number"]) * _SCALE[match["suffix"]]
    raise InvalidSpecError(f"resources_per_node[{what!r}]={value!r} is not a quantity such as 2, '300m' or '10Gi'")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one node of a job asks for.

    Attributes:
        cpu: Cores; None when nothing was asked.
        memory: Bytes.
        gpus: Whole GPUs, of whatever vendor.
        others: Everything else as it was given (``mig-1g.5gb``, ``storage``, extended names), for the backends that
            know it.
    """

    cpu: float | None = None
    memory: int | None = None
    gpus: int = 0
    others: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None) -> Resources:
        """Read ``resources_per_node`` as Kubeflow users write it; keys are case-insensitive.

        Raises:
            InvalidSpecError: A key is no string or a value no quantity.

        Example:
            >>> Resources.parse({"cpu": "500m", "memory": "1Gi", "gpu": 2}).cpu
            0.5
        """
        if given is not None and not isinstance(given, Mapping):
            raise InvalidSpecError(f"resources_per_node must be a dict such as {{'cpu': 2}}, not {given!r}")
        cpu: float | None = None
        memory: int | None = None
        gpus = 0
        others: dict[str, str] = {}
        for key, value in (given or {}).items():
            if not isinstance(key, str):
                raise InvalidSpecError(f"resources_per_node has the key {key!r}; keys are strings such as 'cpu'")
            name = key.lower()
            amount = parse_quantity(value, key)
            if name == "cpu":
                cpu = amount
            elif name == "memory":
                memory = int(amount)
            elif name in ("gpu", "nvidia.com/gpu", "amd.com/gpu"):
                if amount != int(amount):
                    raise InvalidSpecError(
                        f"resources_per_node[{key!r}]={value!r}: GPUs are whole; use mig-* for slices"
                    )
                gpus = int(amount)
            else:
                others[key] = str(value)
        return cls(cpu=cpu, memory=memory, gpus=gpus, others=others)


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """Whether a failed group starts again, as a new attempt in the same working directory.

    Attributes:
        max_restarts: How many more attempts are allowed; 0 means none.
        backoff: Seconds before the first restart; doubled at each further one.
        max_backoff: Upper bound of that delay in seconds. 300 s, as the kubelet's crash-loop delay.
    """

    max_restarts: int = 0
    backoff: float = 1.0
    max_backoff: float = 300.0

    def __post_init__(self) -> None:
        if isinstance(self.max_restarts, bool) or not isinstance(self.max_restarts, int) or self.max_restarts < 0:
            raise InvalidSpecError(f"max_restarts must be 0 or more, not {self.max_restarts!r}")
        if not (self.backoff >= 0 and self.max_backoff >= 0):
            raise InvalidSpecError("backoff and max_backoff are seconds, 0 or more")


@dataclass(frozen=True, kw_only=True)
class SecretRef:
    """A value that is fetched where it is needed and never written down.

    Exactly one source is given: an environment variable of the submitting process, a file that it can read, or a key of
    a Kubernetes Secret. The first two work on every backend, the last on Kubernetes only.

    Attributes:
        env: Name of an environment variable of the submitting process.
        file: Path of a file whose content, without one trailing newline, is the value.
        secret: Name of a Kubernetes Secret in the job's namespace.
        key: Key within ``secret``.

    Example:
        >>> SecretRef(env="HF_TOKEN")
        SecretRef(env='HF_TOKEN')
    """

    env: str | None = None
    file: str | None = None
    secret: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.env, self.file, self.secret)) != 1:
            raise InvalidSpecError("SecretRef needs exactly one of env=, file= or secret= (with key=)")
        if (self.secret is None) != (self.key is None):
            raise InvalidSpecError("SecretRef(secret=…) needs key=, and key= needs secret=")

    def __repr__(self) -> str:
        given = ", ".join(
            f"{f.name}={v!r}" for f in dataclasses.fields(self) if (v := getattr(self, f.name)) is not None
        )
        return f"SecretRef({given})"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One job, normalised: what `trainer` makes of a user's call and what a backend runs.

    It holds no secret's value (``env`` values may be `SecretRef`) and no code (that is the `kfasync.payload.Payload`,
    tied to it by ``payload_digest``).

    Attributes:
        name: The job's name, unique in its place.
        runtime: Name of the training runtime.
        framework: The runtime's framework: ``torch``, ``deepspeed``, ``plainml``, …
        num_nodes: Nodes in the group.
        num_proc_per_node: Ranks on each node; None lets the backend apply its rule.
        resources: What each node asks for.
        entry: ``function``, ``script``, ``container`` (the image's own command), ``study`` (the driver of one: it does
            no work of its own, so it needs no place among the ranks) or ``asked`` (a study that its caller drives: no
            process of the place belongs to it).
        entry_name: What a person calls it: the function's qualified name or the script's path.
        image: Container image, where the user chose one.
        command: Command of a container job (`TrainerCommand`).
        args: Arguments of a container job (`TrainerArgs`) or of a script.
        packages: pip requirements to install before the start.
        index_urls: Package indexes, the first one primary.
        env: Variables added to the job's environment.
        labels: Free labels.
        annotations: Free annotations.
        active_deadline: Seconds from creation (or resume) after which the job fails with DeadlineExceeded.
        start_deadline: Seconds from creation within which it must be Running, else it fails with StartDeadlineExceeded.
        ttl: Seconds after its end at which the job is deleted.
        restart: What to do when the group fails.
        grace: Seconds between SIGTERM and SIGKILL.
        strict: Whether a missing GPU is an error instead of a warning.
        payload_digest: Hex digest of the payload's content.
        checkpoint_from: Name of the job that this one starts with a copy of the checkpoint directory of.
        extra: The Kubernetes-shaped job_spec that options wrote into, beyond what the fields above hold.
    """

    name: str
    runtime: str = "torch-distributed"
    framework: str = "torch"
    num_nodes: int = 1
    num_proc_per_node: int | None = None
    resources: Resources = field(default_factory=Resources)
    entry: str = "function"
    entry_name: str = ""
    image: str | None = None
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    index_urls: tuple[str, ...] = ()
    env: Mapping[str, str | SecretRef] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    active_deadline: float | None = None
    start_deadline: float | None = None
    ttl: float | None = None
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    grace: float = 10.0
    strict: bool = False
    payload_digest: str = ""
    checkpoint_from: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.checkpoint_from is not None and check_name(self.checkpoint_from) == self.name:
            raise InvalidSpecError(f"checkpoint_from={self.name!r} is the job itself: name another one")
        _check_count("num_nodes", self.num_nodes)
        if self.num_proc_per_node is not None:
            _check_count("num_proc_per_node", self.num_proc_per_node)
        for key, value in self.env.items():
            if not isinstance(key, str) or not key or "=" in key or "\0" in key:
                raise InvalidSpecError(f"env has the name {key!r}: use a non-empty string without '=' and NUL")
            if not isinstance(value, str | SecretRef):
                raise InvalidSpecError(
                    f"env[{key!r}] is {type(value).__name__}: values are str or SecretRef; use str(…)"
                )
            if isinstance(value, str) and "\0" in value:
                raise InvalidSpecError(f"env[{key!r}] contains a NUL character, which no environment can hold")
        for what in ("labels", "annotations"):
            for key, value in getattr(self, what).items():
                if not isinstance(key, str) or not isinstance(value, str):
                    raise InvalidSpecError(f"{what} are strings, not {key!r}: {value!r}")
        for what in ("active_deadline", "start_deadline", "ttl", "grace"):
            seconds = getattr(self, what)
            if seconds is not None and not seconds >= 0:
                raise InvalidSpecError(f"{what} must be 0 or more seconds, not {seconds!r}")
        for what in ("env", "labels", "annotations", "extra"):
            object.__setattr__(self, what, MappingProxyType(dict(getattr(self, what))))

    @property
    def is_study(self) -> bool:
        """Whether it is a study and no training."""
        return self.entry in ("study", "asked")

    @property
    def digest(self) -> str:
        """Identity of the spec: equal for equal jobs, whatever process made them."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fields that have their default are left out."""
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            if value == default:
                continue
            out[f.name] = _plain(value)
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobSpec:
        """The spec that `to_dict` wrote; unknown keys (of a newer version) are ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
        if "resources" in values:
            values["resources"] = Resources(**values["resources"])
        if "restart" in values:
            values["restart"] = RestartPolicy(**values["restart"])
        if "env" in values:
            values["env"] = {
                k: SecretRef(**v["$secret"]) if isinstance(v, Mapping) else v for k, v in values["env"].items()
            }
        return cls(**values)


def _check_count(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSpecError(f"{what} must be a whole number of at least 1, not {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, SecretRef):
        return {"$secret": {f.name: v for f in dataclasses.fields(value) if (v := getattr(value, f.name)) is not None}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
