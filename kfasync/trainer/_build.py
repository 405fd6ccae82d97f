"""From a user's call to a job: a spec, a payload and the secrets' values, or a typed error before anything exists."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from kfasync import payload as payloads
from kfasync.errors import InvalidSpecError, RuntimeNotFoundError, UnsupportedError
from kfasync.jobs import (
    BuiltinTrainer,
    CustomTrainer,
    CustomTrainerContainer,
    Initializer,
    JobSpec,
    Option,
    Resources,
    RestartPolicy,
    Runtime,
    SecretRef,
    Trainer,
    TrainerType,
    default_runtime,
    new_name,
)
from kfasync.jobs._trainers import DEFAULT_PIP_INDEX_URLS

__all__ = ["Call", "Plan", "TrainKeywords", "build"]


class TrainKeywords(TypedDict, total=False):
    """The keywords of ``train`` and ``submit``; each may be left out or None.

    Attributes:
        name: The job's name; a fresh one when left out. The same name with the same spec is the same job.
        train_func: A function to train with, instead of ``trainer=CustomTrainer(…)``.
        func_args: Its keyword arguments.
        script: Path of a Python script to train with, instead of a function.
        args: The script's arguments.
        num_nodes: How many nodes.
        num_proc_per_node: Ranks on each node; by default its GPUs, or 1.
        packages_to_install: pip requirements to install before the start.
        pip_index_urls: Package indexes, the main one first; by default pip's own configuration.
        resources_per_node: What each node asks for, such as ``{"cpu": 2, "memory": "4Gi", "gpu": 1}``.
        env: Variables added to the job's environment; values are strings or `SecretRef`.
        image: Container image, for places that run containers.
        labels: Labels.
        annotations: Annotations.
        active_deadline: Seconds from creation or resume after which the job fails, at least 1.
        start_deadline: Seconds from creation within which it must run.
        ttl: Seconds after its end at which the job is deleted.
        restart_policy: What to do when the group fails.
        grace: Seconds between SIGTERM and SIGKILL; by default KFASYNC_GRACE.
        strict: Whether a GPU that the place lacks is an error; by default a warning.
        checkpoint_from: Name of a job that has ended; what it left in `kfasync.checkpoint_dir` is there at the start.
    """

    name: str | None
    train_func: Callable[..., Any] | None
    func_args: Mapping[str, Any] | None
    script: str | os.PathLike[str] | None
    args: Sequence[str | os.PathLike[str]] | None
    num_nodes: int | None
    num_proc_per_node: int | None
    packages_to_install: Sequence[str] | None
    pip_index_urls: Sequence[str] | None
    resources_per_node: Mapping[str, Any] | None
    env: Mapping[str, str | SecretRef] | None
    image: str | None
    labels: Mapping[str, str] | None
    annotations: Mapping[str, str] | None
    active_deadline: float | None
    start_deadline: float | None
    ttl: float | None
    restart_policy: RestartPolicy | None
    grace: float | None
    strict: bool | None
    checkpoint_from: str | None


#: What users of other launchers write, for the hint.
_ALIASES = {
    "parameters": "func_args",
    "func": "train_func",
    "num_workers": "num_nodes",
    "nproc_per_node": "num_proc_per_node",
    "requirements": "packages_to_install",
    "timeout": "active_deadline",
    "max_restarts": "restart_policy",
    "resume_from": "checkpoint_from",
}
#: Fields that a trainer and a keyword can both give.
_SHARED = ("num_nodes", "resources_per_node", "env", "image", "func_args", "packages_to_install", "pip_index_urls")


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of one ``train`` or ``submit``, as the user gave them."""

    runtime: str | Runtime | None = None
    initializer: Initializer | None = None
    trainer: Trainer | None = None
    options: Sequence[Option] | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job ready for `Engine.submit`."""

    spec: JobSpec
    payload: payloads.Payload
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


def build(
    call: Call, runtimes: Sequence[Runtime], backend: object, *, grace: float = 10.0, strict: bool = False
) -> Plan:
    """Make a job of a call.

    Args:
        call: The user's arguments.
        runtimes: The place's runtimes.
        backend: What options are given as their third argument.
        grace: Default of ``grace`` in seconds.
        strict: Default of ``strict``.

    Raises:
        InvalidSpecError: An argument can't be used; says which one and what to change.
        RuntimeNotFoundError: No such runtime.
    """
    _check_keywords(call.keywords)
    given = {key: value for key, value in call.keywords.items() if value is not None}
    runtime = _find_runtime(call.runtime, runtimes)
    _check_trainer(call, given, runtime)
    values = _merge(call.trainer, given)
    payload, entry = _payload(call.trainer, given, values)
    written = _run_options(call, given, backend)
    env = {**runtime.trainer.env, **_mapping("env", values.get("env"))}
    fields: dict[str, Any] = {"args": payload.argv, **_read_options(written, entry)}
    spec = JobSpec(
        runtime=runtime.name,
        framework=runtime.trainer.framework,
        num_nodes=values.get("num_nodes", runtime.trainer.num_nodes),
        num_proc_per_node=given.get("num_proc_per_node", runtime.trainer.num_proc_per_node),
        resources=Resources.parse(values.get("resources_per_node")),
        entry=entry,
        entry_name=payload.name,
        image=_text("image", values.get("image")),
        packages=_texts("packages_to_install", values.get("packages_to_install")),
        index_urls=_index_urls(values.get("pip_index_urls")),
        env=env,
        start_deadline=_seconds("start_deadline", given.get("start_deadline")),
        ttl=_seconds("ttl", given.get("ttl")),
        restart=_restart(given.get("restart_policy")),
        grace=_seconds("grace", given.get("grace", grace)),
        strict=bool(given.get("strict", strict)),
        payload_digest=payload.digest,
        checkpoint_from=_text("checkpoint_from", given.get("checkpoint_from")),
        **fields,
    )
    return Plan(spec=spec, payload=payload, secrets=_secrets(env))


def _check_keywords(keywords: Mapping[str, object]) -> None:
    known = list(TrainKeywords.__annotations__)
    for name in keywords:
        if name not in known:
            near = [_ALIASES[name]] if name in _ALIASES else difflib.get_close_matches(name, known)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}"
            raise InvalidSpecError(f"unknown argument {name!r}{hint}")


def _find_runtime(wanted: object, runtimes: Sequence[Runtime]) -> Runtime:
    if wanted is None:
        wanted = default_runtime()
    if not isinstance(wanted, str | Runtime):
        raise InvalidSpecError(f"runtime must be a name or a Runtime, not {_foreign(wanted)}")
    name = wanted if isinstance(wanted, str) else wanted.name
    for runtime in runtimes:
        if runtime.name == name:
            # A Runtime object counts as it is: the user may have changed it.
            return runtime if isinstance(wanted, str) else wanted
    raise RuntimeNotFoundError(name, [runtime.name for runtime in runtimes])


def _check_trainer(call: Call, given: Mapping[str, object], runtime: Runtime) -> None:
    trainer, initializer = call.trainer, call.initializer
    if trainer is not None and not isinstance(trainer, Trainer):
        raise InvalidSpecError(
            f"trainer must be a CustomTrainer, CustomTrainerContainer or BuiltinTrainer, not {_foreign(trainer)}"
        )
    ways = ["trainer"] * (trainer is not None) + [way for way in ("train_func", "script") if way in given]
    if len(ways) > 1:
        raise InvalidSpecError(f"{' and '.join(ways)} are given: choose one")
    builtin = runtime.trainer.trainer_type is TrainerType.BUILTIN_TRAINER
    if builtin != isinstance(trainer, BuiltinTrainer) and ways:
        takes = "BuiltinTrainer" if builtin else "CustomTrainer, a function or a script"
        raise InvalidSpecError(f"the runtime {runtime.name!r} takes a {takes}; choose another runtime or trainer")
    if initializer is not None and not isinstance(initializer, Initializer):
        raise InvalidSpecError(f"initializer must be an Initializer, not {_foreign(initializer)}")
    # No place of this version fetches datasets or brings training code; JobSpec has no field for them yet.
    if builtin:
        raise UnsupportedError(
            f"the runtime {runtime.name!r} brings its own training code, which this version can't run: "
            "give a CustomTrainer, train_func= or script= with a runtime such as 'torch-distributed'"
        )
    if initializer is not None and (initializer.dataset or initializer.model):
        raise UnsupportedError(
            "this version can't run initializers: leave initializer= out and fetch the data inside the training code"
        )


def _foreign(value: object) -> str:
    kind = type(value)
    if kind.__module__.partition(".")[0] == "kubeflow":
        return f"{kind.__module__}.{kind.__name__}: import it from kfasync.trainer instead"
    return repr(value)


def _merge(trainer: Trainer | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the trainer says and what the keywords say; a thing said twice is refused, as either could be meant."""
    values: dict[str, Any] = {}
    for name in _SHARED:
        own = getattr(trainer, name, None)
        if name == "pip_index_urls" and own == DEFAULT_PIP_INDEX_URLS:
            own = None
        if own is not None and name in given:
            raise InvalidSpecError(f"{name} is given twice: in the trainer and as an argument; keep one")
        value = own if own is not None else given.get(name)
        if value is not None:
            values[name] = value
    return values


def _payload(
    trainer: Trainer | None, given: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[payloads.Payload, str]:
    own: Any = trainer.func if isinstance(trainer, CustomTrainer) else None
    is_script = isinstance(own, str | os.PathLike | payloads.Payload)
    func, script = (None, own) if is_script else (own or given.get("train_func"), given.get("script"))
    if script is None and "args" in given:
        raise InvalidSpecError("args are the arguments of a script; a function takes func_args={…}")
    if func is None and "func_args" in values:
        raise InvalidSpecError("func_args are the arguments of a function; a script takes args=[…]")
    if func is not None:
        if not callable(func):
            raise InvalidSpecError(f"the training function must be callable, not {func!r}")
        return payloads.from_function(func, values.get("func_args")), "function"
    if isinstance(script, payloads.Payload):
        return script, script.kind
    if script is not None:
        return payloads.from_script(script, _texts("args", given.get("args"))), "script"
    for name in ("packages_to_install", "pip_index_urls"):
        if name in values:
            raise InvalidSpecError(f"{name} needs a function or a script; an image brings its own packages")
    if isinstance(trainer, CustomTrainerContainer) and not trainer.image:
        raise InvalidSpecError("CustomTrainerContainer needs an image")
    return payloads.none(), "container"


def _run_options(call: Call, given: Mapping[str, Any], backend: object) -> dict[str, Any]:
    written: dict[str, Any] = {}
    metadata = {key: given[key] for key in ("name", "labels", "annotations") if key in given}
    for key in ("labels", "annotations"):
        if key in metadata:
            metadata[key] = _mapping(key, metadata[key])
    if metadata:
        written["metadata"] = metadata
    if "active_deadline" in given:
        written["spec"] = {"activeDeadlineSeconds": given["active_deadline"]}
    if isinstance(call.options, str | Mapping) or (call.options is not None and not isinstance(call.options, Sequence)):
        raise InvalidSpecError(f"options must be a list, not {call.options!r}")
    for option in call.options or ():
        if not callable(option):
            raise InvalidSpecError(f"{option!r} is no option: use a callable (job_spec, trainer, backend)")
        option(written, call.trainer, backend)
    return written


def _read_options(written: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """The spec's fields that options wrote; what remains goes into ``extra`` for the backends that know it."""
    metadata = _mapping("job_spec['metadata']", written.get("metadata"))
    spec = _mapping("job_spec['spec']", written.get("spec"))
    trainer = _mapping("job_spec['spec']['trainer']", spec.pop("trainer", None))
    name = metadata.pop("name", None)
    fields: dict[str, Any] = {"name": new_name() if name is None else name}
    fields["labels"] = _mapping("labels", metadata.pop("labels", None))
    fields["annotations"] = _mapping("annotations", metadata.pop("annotations", None))
    deadline = fields["active_deadline"] = _seconds("active_deadline", spec.pop("activeDeadlineSeconds", None))
    # Kubernetes' rule, kept on every backend so that code moves between them unchanged.
    if deadline is not None and deadline < 1:
        raise InvalidSpecError(f"active_deadline must be at least 1 second, not {deadline!r}")
    for key in ("command", "args"):
        if trainer.get(key) is None:
            continue
        if entry != "container":
            raise InvalidSpecError(f"the {key} of a container can't be replaced when a {entry} is given")
        fields[key] = _texts(key, trainer.pop(key))
    if trainer:
        spec["trainer"] = trainer
    others = {key: value for key, value in written.items() if key not in ("metadata", "spec")}
    extra = {**others, **({"metadata": metadata} if metadata else {}), **({"spec": spec} if spec else {})}
    try:
        fields["extra"] = json.loads(json.dumps(extra))
    except (TypeError, ValueError) as error:
        raise InvalidSpecError(f"an option wrote a value that JSON can't hold: {error}") from error
    return fields


def _secrets(env: Mapping[str, object]) -> dict[str, str]:
    """The values that this process can read; a key of a Kubernetes Secret stays a reference."""
    secrets: dict[str, str] = {}
    for name, ref in env.items():
        if isinstance(ref, SecretRef) and ref.secret is None:
            secrets[name] = _secret(name, ref)
    return secrets


def _secret(name: str, ref: SecretRef) -> str:
    if ref.env is not None:
        value = os.environ.get(ref.env)
        if value is None:
            raise InvalidSpecError(f"env[{name!r}]={ref!r}: the variable {ref.env!r} is not set in this process")
        return value
    try:
        value = Path(str(ref.file)).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        # The decoder's message would quote bytes of the secret.
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InvalidSpecError(f"env[{name!r}]={ref!r}: the file can't be read: {why}") from None
    value = value.removesuffix("\n")
    if "\0" in value:
        raise InvalidSpecError(f"env[{name!r}]={ref!r}: the value has a NUL character, which no environment can hold")
    return value


def _mapping(what: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidSpecError(f"{what} must be a dict, not {value!r}")
    return dict(value)


def _text(what: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidSpecError(f"{what} must be a string, not {value!r}")
    return value


def _texts(what: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidSpecError(f"{what} must be a list of strings, not {value!r}")
    for item in value:
        if not isinstance(item, str | os.PathLike):
            raise InvalidSpecError(f"{what} must be strings, not {item!r}; use str(…)")
    return tuple(os.fspath(item) for item in value)


def _index_urls(value: object) -> tuple[str, ...]:
    # Nothing said: pip's own configuration counts, unless the variable of the Kubeflow SDK chooses indexes.
    if value is None and os.environ.get("DEFAULT_PIP_INDEX_URLS"):
        return tuple(DEFAULT_PIP_INDEX_URLS)
    return _texts("pip_index_urls", value)


def _seconds(what: str, value: object) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidSpecError(f"{what} is a number of seconds, not {value!r}")
    return value


def _restart(value: object) -> RestartPolicy:
    if value is None:
        return RestartPolicy()
    if not isinstance(value, RestartPolicy):
        raise InvalidSpecError(f"restart_policy must be a RestartPolicy, not {value!r}")
    return value
