"""The local place as the engine sees it: a client of the supervisor and a reader of its files."""

from __future__ import annotations

import asyncio
import os
import pickle
import platform
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfasync import settings
from kfasync.backends.base import Backend, LogLine, LogQuery, Submission, Synced
from kfasync.backends.local._devices import find_gpus
from kfasync.backends.local._launch import Launch
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.backends.local._logs import read_logs
from kfasync.errors import BackendUnavailableError, InvalidSpecError, ResultError, UnsupportedError
from kfasync.events import Event
from kfasync.jobs import JobSpec, Runtime
from kfasync.payload import Payload
from kfasync.state import JobState, Journal, Status

if TYPE_CHECKING:
    from kfasync.backends.local._config import LocalProcessBackendConfig

__all__ = ["LocalBackend"]

# Seconds that a supervisor must live for its end to count as an accident, and not as its way.
_PROOF = 1.0
# Bytes of a pickled function or a script; it goes through one message to the supervisor.
_PAYLOAD_LIMIT = 1000 << 20
# Ranks of one job. A group larger than the machine runs all the same, alone; a slip of the keyboard that starts 100,000
# processes takes the machine down with everything on it. 1024 idle ranks take 2 GB.
_MAX_RANKS = 1024
# The program of a study's own job. Its imports take longer than all else between the death of a driver and the next
# trial; torch, which its payload brings for the trials, it would wait for and not need.
_DRIVER = "kfasync.optimizer._driver"


class LocalBackend(Backend):
    """Jobs as processes of this machine, run by the supervisor of KFASYNC_HOME.

    Args:
        config: The client's configuration.
    """

    journals = True
    checkpoints = True

    def __init__(self, config: LocalProcessBackendConfig) -> None:
        self._config = config
        self._settings = settings.load()
        self._home = Home(self._settings.home)
        self._place = self._home.place  # Resolving a path asks the disk, and every event and query names the place.
        self._link = Link(self._home)
        self._doubtful = False

    @property
    def place(self) -> str:
        return self._place

    async def open(self, journal: Journal) -> None:
        self._journal = journal

    async def aclose(self) -> None:
        await self._link.aclose()

    def check(self, spec: JobSpec, payload: Payload) -> None:
        if len(payload.data) > _PAYLOAD_LIMIT:
            raise InvalidSpecError(
                f"the function and its arguments are {len(payload.data) >> 20} MiB, more than {_PAYLOAD_LIMIT >> 20}: "
                "put the data into a file and pass its path"
            )
        if spec.entry == "container" and not (spec.image or spec.command or spec.args):
            raise UnsupportedError("nothing to run: give train_func=, script= or trainer=")
        if spec.entry == "container":
            raise UnsupportedError(
                "the local backend runs functions and scripts, not images: use CustomTrainer or script=, "
                "or a container or Kubernetes backend"
            )
        for name, value in spec.env.items():
            if not isinstance(value, str) and value.secret is not None:
                raise UnsupportedError(
                    f"env[{name!r}] is a Kubernetes Secret: on local use SecretRef(env=…) or (file=…)"
                )
        ranks = spec.num_nodes * self._procs(spec)
        if ranks > _MAX_RANKS:
            raise UnsupportedError(
                f"{ranks} processes were asked for, the local backend starts at most {_MAX_RANKS} for a job: "
                "lower num_nodes or num_proc_per_node"
            )
        asked, present = spec.resources.gpus * spec.num_nodes, len(self._gpus())
        if asked > present and (spec.strict or self._config.strict):
            raise UnsupportedError(
                f"{asked} GPUs were asked for, this machine has {present}: ask for fewer, or strict=False"
            )

    def _gpus(self) -> tuple[str, ...]:
        return find_gpus(self._settings.gpus)

    def prepare(self) -> None:
        self._link.prepare()

    def _procs(self, spec: JobSpec) -> int:
        """Processes a node: unless the user said it, one for each GPU that a node will get."""
        gpus = spec.resources.gpus if spec.resources.gpus * spec.num_nodes <= len(self._gpus()) else 0
        return spec.num_proc_per_node or max(1, gpus)

    async def submit(self, submission: Submission) -> None:
        spec, payload = submission.spec, submission.payload
        resolved = replace(spec, num_proc_per_node=self._procs(spec), packages=(), index_urls=())
        install: tuple[str, ...] = ()
        if spec.packages:
            # Lazy: most jobs need no packages, and `packaging` takes 40 ms to import.
            from kfasync.backends.local._credentials import without_credentials
            from kfasync.backends.local._requirements import normalise, unsatisfied

            packages = normalise(spec.packages)
            install = packages if unsatisfied(packages) else ()
            resolved = replace(
                resolved,
                packages=tuple(map(without_credentials, packages)),
                index_urls=tuple(map(without_credentials, spec.index_urls)),
            )
        preload = tuple(name for name in self._settings.preload.split(",") if name in payload.imports)
        study = spec.entry == "study"
        launch = Launch(
            python=sys.executable,
            # A job that submits jobs must not have their progress taken for its own.
            environ={k: v for k, v in os.environ.items() if not k.startswith("KUBEFLOW_TRAINER_SERVER_")},
            secrets=dict(submission.secrets),
            kind=payload.kind,
            filename=payload.filename,
            argv=payload.argv,
            path=payload.path,
            preload=(_DRIVER,) if study else preload,
            following=preload if study else None,
            install=install,
            index_urls=spec.index_urls,
            version=payload.python,
        )
        await self._link.request(
            "submit",
            payload.data,
            uid=submission.uid,
            spec=resolved.to_dict(),
            digest=spec.digest,
            launch=vars(launch),
        )

    async def watch(self) -> AsyncIterator[Event | Synced]:
        """No events: the supervisor writes the journal. While jobs are alive it sees to it that there is one."""
        loop = asyncio.get_running_loop()
        while True:
            head = await self._journal.head()
            alive = await self._journal.jobs(self.place, alive_only=True)
            lost = await self._link.connected() if alive else None
            if lost is not None and self._doubtful:
                await self._prove(lost)
            yield Synced(uids=frozenset(job.uid for job in alive))
            if lost is None:
                await self._journal.changed(head)
                continue
            connected = loop.time()
            await lost
            self._doubtful = loop.time() - connected < _PROOF

    async def _prove(self, lost: asyncio.Future[None]) -> None:
        """The last supervisor died right after its start: the next one counts when it has lived for a while."""
        died, _ = await asyncio.wait([lost], timeout=_PROOF)
        if died:
            # The watcher waits longer before each further try, and gives up some time.
            raise BackendUnavailableError(f"the supervisor ends right after its start; see {self._home.log}")
        self._doubtful = False

    def logs(self, job: JobState, query: LogQuery, done: asyncio.Event) -> AsyncIterator[LogLine]:
        return read_logs(self._home.job(job.uid).root, job, query, done)

    async def cancel(self, job: JobState, *, cause: str = "cancel", message: str = "") -> None:
        await self._link.request("stop", uid=job.uid, name=job.name, cause=cause, message=message)

    async def suspend(self, job: JobState) -> None:
        await self._link.request("stop", uid=job.uid, name=job.name, cause="suspend")

    async def resume(self, job: JobState) -> None:
        await self._link.request("resume", uid=job.uid, name=job.name)

    async def delete(self, job: JobState) -> None:
        await self._link.request("delete", uid=job.uid, name=job.name)

    async def results(self, job: JobState, rank: int | None = None) -> dict[int, Any]:
        if job.status is not Status.COMPLETE:
            raise ResultError(f"job {job.name!r} is {job.status.value}: only a Complete job has a result")
        spec = job.job_spec
        ranks = range(spec.num_nodes * (spec.num_proc_per_node or 1)) if rank is None else (rank,)
        return {each: await asyncio.to_thread(self._result, job, each) for each in ranks}

    def _result(self, job: JobState, rank: int) -> Any:
        path = self._home.job(job.uid).rank_file(job.attempt, rank, "result")
        try:
            with path.open("rb") as file:
                # A pickle is a program: only one that this user's own rank wrote is run.
                if os.fstat(file.fileno()).st_uid != os.getuid():
                    raise ResultError(f"{path} belongs to another user")
                return pickle.load(file)
        except FileNotFoundError:
            raise ResultError(self._why_no_result(job, rank)) from None
        except ResultError:
            raise
        except Exception as error:  # Unpickling runs the value's own code, which may raise anything.
            raise ResultError(
                f"rank {rank} of job {job.name!r} returned what can't be loaded here: {error!r}"
            ) from error

    def _why_no_result(self, job: JobState, rank: int) -> str:
        from kfasync.backends.local._ranks import read_exit_record

        files = (self._home.job(job.uid).rank_file(job.attempt, rank, kind) for kind in ("exit", "error"))
        why = read_exit_record(*files).get("result_error") or "it left none"
        return f"rank {rank} of job {job.name!r} has no result: {why}"

    async def files(self, job: JobState, node: int) -> Path:
        return self._home.job(job.uid).work(node)

    async def checkpoint(self, job: JobState) -> Path:
        return self._home.job(job.uid).checkpoint

    async def runtimes(self) -> list[Runtime]:
        from kfasync.jobs import builtin_runtimes

        return builtin_runtimes()

    async def runtime_packages(self, runtime: Runtime) -> str:
        from importlib.metadata import distributions

        packages = sorted({f"{d.name}=={d.version}" for d in distributions() if d.name}, key=str.lower)
        gpus = ", ".join(self._gpus()) or "none"
        return "\n".join([f"Python: {platform.python_version()}", f"GPUs: {gpus}", *packages])
