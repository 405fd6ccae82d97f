"""What each rank of an attempt is told: its environment, as torchrun gives it, and its context."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from kfasync.backends.local._layout import JobDir
from kfasync.backends.local._zygotes import import_environment
from kfasync.jobs import JobSpec

__all__ = ["Launch", "Rendezvous", "rank_context"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What the client adds to the spec so that its machine's processes can be started: kept in a private file
    of the job.

    Attributes:
        python: The client's interpreter.
        environ: The client's environment at submit.
        secrets: Values of the spec's SecretRefs.
        kind: The payload's kind.
        filename: The script's path.
        argv: The script's arguments.
        path: Directories to make importable.
        preload: Modules worth having loaded before the fork.
        following: What the jobs have loaded that this one will submit, if it will: their zygote may start at once.
        install: Requirements, when the interpreter does not satisfy them by itself. They and the index URLs are here as
            the user gave them; the spec, which is journaled, holds them without credentials.
        index_urls: Package indexes.
        version: The client's Python, major and minor, which pickled the payload.
    """

    python: str
    environ: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    kind: str = "function"
    filename: str = ""
    argv: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    following: tuple[str, ...] | None = None
    install: tuple[str, ...] = field(default=(), repr=False)
    index_urls: tuple[str, ...] = field(default=(), repr=False)
    version: tuple[int, ...] = ()

    def dump(self) -> bytes:
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}).encode()

    @classmethod
    def load(cls, data: bytes | str) -> Launch:
        return cls.of(json.loads(data))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Launch:
        """From JSON values."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)

    @cached_property
    def ambient(self) -> tuple[tuple[str, str], ...]:
        """What a zygote that serves this client's jobs has in its environment from its start."""
        return import_environment(self.environ)

    @property
    def preloads(self) -> tuple[tuple[str, ...], ...]:
        """What the zygotes have loaded that are needed from now on."""
        return (self.preload,) if self.following is None else (self.preload, self.following)

    def job_environ(self, spec: JobSpec) -> dict[str, str]:
        """The environment that every rank of the job shares."""
        own = {name: value if isinstance(value, str) else self.secrets[name] for name, value in spec.env.items()}
        return {**self.environ, **own}


class Rendezvous:
    """A port on loopback for the group's store, kept free for rank 0 while the attempt runs.

    The socket is bound but does not listen: with SO_REUSEADDR rank 0 can bind the same port, and nobody else is given
    it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("0.0.0.0", 0))  # where torch's TCPStore binds; nothing ever listens on this socket
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


def rank_environment(
    spec: JobSpec, uid: str, attempt: int, rank: int, port: int, devices: tuple[str, ...], directory: JobDir
) -> dict[str, str]:
    """The variables that torchrun 2.13 sets, those of Trainer's torch plugin (PET_*), and ours."""
    nproc = spec.num_proc_per_node or 1
    node, local_rank = divmod(rank, nproc)
    world = spec.num_nodes * nproc
    files = directory.rank_prefix(attempt, rank)
    env = {
        "RANK": rank,
        "LOCAL_RANK": local_rank,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": nproc,
        "GROUP_RANK": node,
        "GROUP_WORLD_SIZE": spec.num_nodes,
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": world,
        "ROLE_NAME": "default",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": spec.name,
        "TORCHELASTIC_RESTART_COUNT": attempt - 1,
        "TORCHELASTIC_MAX_RESTARTS": spec.restart.max_restarts,
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_ERROR_FILE": f"{files}error",
        "PET_NNODES": spec.num_nodes,
        "PET_NPROC_PER_NODE": nproc,
        "PET_NODE_RANK": node,
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": port,
        "KFASYNC_JOB_NAME": spec.name,
        "KFASYNC_JOB_UID": uid,
        "KFASYNC_ATTEMPT": attempt,
        "KFASYNC_REPORT_FILE": f"{files}report",
        "KFASYNC_STOP_FILE": f"{files}stop",
        "KFASYNC_CHECKPOINT_DIR": directory.checkpoint,
    }
    if devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    return {name: str(value) for name, value in env.items()}


def rank_context(
    spec: JobSpec, launch: Launch, uid: str, attempt: int, rank: int, nonce: str, directory: JobDir
) -> dict[str, Any]:
    """What `kfasync.worker.run_rank` needs to know, but for the environment."""
    nproc = spec.num_proc_per_node or 1
    node, local_rank = divmod(rank, nproc)
    own = directory.rank_prefix(attempt, rank)
    files = {kind: own + kind for kind in ("stdout", "stderr")}
    files |= {f"{kind}_file": own + kind for kind in ("exit", "result", "report", "stop")}
    return {
        "payload": str(directory.payload),
        "kind": launch.kind,
        "filename": launch.filename,
        "argv": list(launch.argv),
        "python": list(launch.version),
        "path": list(launch.path),
        "node": node,
        "rank": rank,
        "local_rank": local_rank,
        "attempt": attempt,
        "job": spec.name,
        "uid": uid,
        "cwd": str(directory.work(node)),
        "pid_file": str(claim_file(directory, attempt, rank, nonce)),
        "private": str(directory.private("")),
        **files,
    }


def claim_file(directory: JobDir, attempt: int, rank: int, nonce: str) -> Path:
    """The file that a rank creates first of all, unless a later supervisor did so to keep it from starting."""
    return directory.rank_file(attempt, rank, f"pid.{nonce}")


def write_exec_context(context: dict[str, Any], python: str, worker: Path) -> dict[str, Any]:
    """Have the rank become a fresh interpreter instead of a fork: its context then travels in a private file."""
    path = Path(f"{context['private']}context-{context['attempt']}-{context['rank']}.json")
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump({key: value for key, value in context.items() if key != "env"}, file)
    return {**context, "exec": [python, str(worker), str(path)]}
