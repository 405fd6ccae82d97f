"""TrainerClient: the blocking twin. Each method runs that of the async client on the portal's loop."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from kfasync.errors import JobNotFoundError
from kfasync.trainer._choice import choose

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig, LogLine
    from kfasync.engine import JobHandle as AsyncJobHandle
    from kfasync.events import Event as JobEvent
    from kfasync.events import MetricReported
    from kfasync.jobs import Event, Initializer, Option, Runtime, Trainer, TrainJob, TrainJobTemplate
    from kfasync.optimizer import OptimizationJob, Result
    from kfasync.optimizer._plan import StudyKeywords
    from kfasync.portal import Portal
    from kfasync.state import JobState, MetricSummary
    from kfasync.trainer._build import TrainKeywords
    from kfasync.trainer._client import AsyncTrainerClient

__all__ = ["JobHandle", "TrainerClient", "config_key", "going_on"]

T = TypeVar("T")
R = TypeVar("R")

_COMPLETE = frozenset({"Complete"})


@contextlib.contextmanager
def going_on(name: str) -> Iterator[None]:
    """Say, when Ctrl-C ends a wait, that the job goes on."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"\njob {name} goes on; resume following: kfasync wait {name}; cancel: kfasync cancel {name}",
            file=sys.stderr,
            flush=True,
        )
        raise


def config_key(config: BackendConfig) -> tuple[object, ...]:
    """What the blocking clients of one process that share an engine have in common."""
    from kfasync import settings

    fields = tuple((name, repr(value)) for name, value in sorted(vars(config).items()))
    return type(config), fields, settings.load().home


class TrainerClient:
    """Train models from scripts, threads and notebooks.

    Every method blocks until it is done; Ctrl-C ends the call, never the job. Clients of one process and one config
    share their engine, which closes when the process ends: there is nothing to close.

    Args:
        backend_config: Where jobs run. None takes KFASYNC_BACKEND; else, inside a pod, that cluster; else the cluster
            of the kubeconfig's current context; else processes of this machine.

    Raises:
        InvalidSpecError: It is no backend config.
        UnsupportedError: This version can't run jobs there.

    Example:
        >>> client = TrainerClient()  # doctest: +SKIP
        >>> name = client.train(train_func=train_model, num_nodes=2)  # doctest: +SKIP
        >>> client.wait_for_job_status(name).status  # doctest: +SKIP
        'Complete'
    """

    def __init__(self, backend_config: BackendConfig | None = None) -> None:
        self._config = choose(backend_config)
        self._key: tuple[object, ...] = ()

    def _shared(self) -> tuple[Portal, AsyncTrainerClient]:
        # Imported at first use: asyncio and the engine are most of a client's start, and a child made by fork needs
        # the portal and the engine of its own process.
        from kfasync import portal
        from kfasync.trainer._client import AsyncTrainerClient

        self._key = self._key or config_key(self._config)
        current = portal.current()
        return current, current.resource(self._key, lambda: AsyncTrainerClient(self._config))

    def _run(self, call: Callable[[AsyncTrainerClient], Coroutine[Any, Any, T]]) -> T:
        portal, client = self._shared()
        return portal.run(call, client)

    def _run_telling(
        self,
        call: Callable[[AsyncTrainerClient, Callable[[T], None]], Coroutine[Any, Any, R]],
        hear: Callable[[T], object],
    ) -> R:
        portal, client = self._shared()
        return portal.run_telling(lambda tell: call(client, tell), hear)

    def _iterate(self, source: Callable[[AsyncTrainerClient], AsyncGenerator[T, None]]) -> Iterator[T]:
        portal, client = self._shared()
        return portal.iterate(lambda: source(client))

    # --- submitting ---

    def train(
        self,
        runtime: str | Runtime | None = None,
        initializer: Initializer | None = None,
        trainer: Trainer | None = None,
        options: Sequence[Option] | None = None,
        **keywords: Unpack[TrainKeywords],
    ) -> str:
        """Submit a job and return its name; see `AsyncTrainerClient.train`."""
        return self._run(lambda client: client.train(runtime, initializer, trainer, options, **keywords))

    def submit(
        self,
        runtime: str | Runtime | None = None,
        initializer: Initializer | None = None,
        trainer: Trainer | None = None,
        options: Sequence[Option] | None = None,
        **keywords: Unpack[TrainKeywords],
    ) -> JobHandle:
        """Submit a job and get a handle on it; see `AsyncTrainerClient.submit`."""
        inner = self._run(lambda client: client.submit(runtime, initializer, trainer, options, **keywords))
        return JobHandle(self, inner)

    def attach(self, name: str) -> JobHandle:
        """A handle on a job that exists; see `AsyncTrainerClient.attach`."""
        return JobHandle(self, self._run(lambda client: client.attach(name)))

    # --- studies ---

    def optimize(self, trial_template: TrainJobTemplate, **keywords: Unpack[StudyKeywords]) -> str:
        """Start a study and return its name; see `AsyncTrainerClient.optimize`."""
        return self._run(lambda client: client.optimize(trial_template, **keywords))

    def list_optimization_jobs(self) -> list[OptimizationJob]:
        """The studies, the oldest first."""
        return self._run(lambda client: client.list_optimization_jobs())

    def get_optimization_job(self, name: str) -> OptimizationJob:
        """A study as it is now, with its trials."""
        return self._run(lambda client: client.get_optimization_job(name))

    def get_best_results(self, name: str, *, all: bool = False) -> Result | list[Result] | None:
        """The best trial of a study so far; with ``all`` every one that no other one beats."""
        return self._run(lambda client: client.get_best_results(name, all=all))

    def wait_for_optimization_job_status(
        self,
        name: str,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = 3600,
        polling_interval: float = 2,
        callbacks: Sequence[Callable[[OptimizationJob], object]] | None = None,
    ) -> OptimizationJob:
        """Wait for a study; callbacks run on the caller's thread."""

        def hear(job: OptimizationJob) -> None:
            for callback in callbacks or ():
                callback(job)

        with going_on(name):
            if not callbacks:
                return self._run(lambda client: client.wait_for_optimization_job_status(name, status, timeout))
            return self._run_telling(
                lambda client, tell: client.wait_for_optimization_job_status(name, status, timeout, callbacks=[tell]),
                hear,
            )

    def delete_optimization_job(self, name: str) -> None:
        """Stop a study if it runs and remove everything of it."""
        self._run(lambda client: client.delete_optimization_job(name))

    # --- looking ---

    def list_jobs(self, runtime: Runtime | None = None) -> list[TrainJob]:
        """The jobs of the place, the oldest first; see `AsyncTrainerClient.list_jobs`."""
        return self._run(lambda client: client.list_jobs(runtime))

    def get_job(self, name: str) -> TrainJob:
        """A job as it is now; see `AsyncTrainerClient.get_job`."""
        return self._run(lambda client: client.get_job(name))

    def get_job_logs(
        self,
        name: str,
        step: str | None = "node-0",
        follow: bool | None = False,
        *,
        rank: int | None = None,
        tail: int | None = None,
        since: str | float | None = None,
        attempt: int | None = None,
    ) -> Iterator[str]:
        """The lines that a job printed; see `AsyncTrainerClient.get_job_logs`."""
        with going_on(name):
            yield from self._iterate(
                lambda client: client.get_job_logs(
                    name, step, follow, rank=rank, tail=tail, since=since, attempt=attempt
                )
            )

    def get_job_events(self, name: str) -> list[Event]:
        """What happened to a job so far; see `AsyncTrainerClient.get_job_events`."""
        return self._run(lambda client: client.get_job_events(name))

    def get_job_metrics(self, name: str) -> Mapping[str, MetricSummary]:
        """Smallest, largest and latest value of each metric; see `AsyncTrainerClient.get_job_metrics`."""
        return self._run(lambda client: client.get_job_metrics(name))

    def events(self, since: int | None = None, job: str | None = None) -> Iterator[JobEvent]:
        """What happens to the jobs of this place; see `AsyncTrainerClient.events`."""
        yield from self._iterate(lambda client: client.events(since, job))

    def wait_for_job_status(
        self,
        name: str,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = 600,
        polling_interval: float = 2,
        callbacks: Sequence[Callable[[TrainJob], object]] | None = None,
    ) -> TrainJob:
        """Wait for a status; see `AsyncTrainerClient.wait_for_job_status`. Callbacks run on the caller's thread."""

        def hear(job: TrainJob) -> None:
            for callback in callbacks or ():
                callback(job)

        with going_on(name):
            if not callbacks:
                return self._run(lambda client: client.wait_for_job_status(name, status, timeout))
            return self._run_telling(
                lambda client, tell: client.wait_for_job_status(name, status, timeout, callbacks=[tell]), hear
            )

    # --- controlling ---

    def cancel(self, name: str) -> None:
        """Have a job stopped; see `AsyncTrainerClient.cancel`."""
        self._run(lambda client: client.cancel(name))

    def suspend(self, name: str) -> None:
        """Have a job stopped, to be resumed later; see `AsyncTrainerClient.suspend`."""
        self._run(lambda client: client.suspend(name))

    def resume(self, name: str) -> None:
        """Have a suspended job start again; see `AsyncTrainerClient.resume`."""
        self._run(lambda client: client.resume(name))

    def delete_job(self, name: str) -> None:
        """Stop a job and remove everything of it; see `AsyncTrainerClient.delete_job`."""
        self._run(lambda client: client.delete_job(name))

    # --- runtimes ---

    def list_runtimes(self) -> list[Runtime]:
        """The training runtimes of the place."""
        return self._run(lambda client: client.list_runtimes())

    def get_runtime(self, name: str) -> Runtime:
        """One training runtime; see `AsyncTrainerClient.get_runtime`."""
        return self._run(lambda client: client.get_runtime(name))

    def get_runtime_packages(self, runtime: Runtime) -> str:
        """Print and return what a runtime has; see `AsyncTrainerClient.get_runtime_packages`."""
        return self._run(lambda client: client.get_runtime_packages(runtime))


class JobHandle:
    """One job, followed and controlled by blocking calls; the twin of `kfasync.engine.JobHandle`.

    Example:
        >>> handle = client.submit(train_func=train_model)  # doctest: +SKIP
        >>> for line in handle.logs(follow=True):  # doctest: +SKIP
        ...     print(line.text)
        >>> value = handle.result()  # doctest: +SKIP
    """

    def __init__(self, client: TrainerClient, inner: AsyncJobHandle) -> None:
        self._client = client
        self._inner = inner
        self._owner, _ = client._shared()

    def __repr__(self) -> str:
        return f"JobHandle(name={self.name!r}, uid={self.uid!r})"

    @property
    def name(self) -> str:
        """The job's name."""
        return self._inner.name

    @property
    def uid(self) -> str:
        """The job's identity."""
        return self._inner.uid

    async def _handle(self, client: AsyncTrainerClient) -> AsyncJobHandle:
        """The async handle; in a child made by fork, one of the child's own engine."""
        portal, _ = self._client._shared()
        if portal is not self._owner:
            inner = await client.attach(self.name)
            if inner.uid != self.uid:
                raise JobNotFoundError(self.name)
            self._inner, self._owner = inner, portal
        return self._inner

    def _run(self, call: Callable[[AsyncJobHandle], Coroutine[Any, Any, T]]) -> T:
        async def on_loop(client: AsyncTrainerClient) -> T:
            return await call(await self._handle(client))

        with going_on(self.name):
            return self._client._run(on_loop)

    def _iterate(self, source: Callable[[AsyncJobHandle], AsyncGenerator[T, None]]) -> Iterator[T]:
        async def on_loop(client: AsyncTrainerClient) -> AsyncGenerator[T, None]:
            async with contextlib.aclosing(source(await self._handle(client))) as items:
                async for item in items:
                    yield item

        with going_on(self.name):
            yield from self._client._iterate(on_loop)

    def state(self) -> JobState:
        """What is true of the job now."""
        return self._run(lambda handle: handle.state())

    def wait(
        self,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = None,
        *,
        on_change: Callable[[JobState], object] | None = None,
    ) -> JobState:
        """Wait for one of the given statuses, or the end; ``on_change`` runs on the caller's thread."""
        if on_change is None:
            return self._run(lambda handle: handle.wait(status, timeout))

        async def on_loop(client: AsyncTrainerClient, tell: Callable[[JobState], None]) -> JobState:
            return await (await self._handle(client)).wait(status, timeout, on_change=tell)

        with going_on(self.name):
            return self._client._run_telling(on_loop, on_change)

    def changes(self) -> Iterator[JobState]:
        """The present state, then the state at each change; ends behind the job's end."""
        return self._iterate(lambda handle: handle.changes())

    def logs(
        self,
        step: str | None = "node-0",
        *,
        rank: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        since: str | float | None = None,
        attempt: int | None = None,
        streams: Sequence[str] = ("stdout", "stderr"),
    ) -> Iterator[LogLine]:
        """The job's output; see `kfasync.engine.JobHandle.logs`."""
        return self._iterate(
            lambda handle: handle.logs(
                step, rank=rank, follow=follow, tail=tail, since=since, attempt=attempt, streams=streams
            )
        )

    def metrics(self) -> Iterator[MetricReported]:
        """Every report of numbers; ends when the job has ended and all was read."""
        return self._iterate(lambda handle: handle.metrics())

    def cancel(self, *, cause: str = "cancel", message: str = "") -> None:
        """Have the job stopped; it ends as Failed(Cancelled), or Failed(Pruned)."""
        self._run(lambda handle: handle.cancel(cause=cause, message=message))

    def suspend(self) -> None:
        """Have the job stopped with grace, to be resumed later."""
        self._run(lambda handle: handle.suspend())

    def resume(self) -> None:
        """Have a suspended job start again as a new attempt."""
        self._run(lambda handle: handle.resume())

    def delete(self) -> None:
        """Stop the job if it runs and remove everything of it."""
        self._run(lambda handle: handle.delete())

    def result(self) -> Any:
        """Wait for the end and return what rank 0's function returned."""
        return self._run(lambda handle: handle.result())

    def results(self) -> dict[int, Any]:
        """Wait for the end and return what the function returned, by global rank."""
        return self._run(lambda handle: handle.results())

    def files(self, node: int = 0) -> list[Path]:
        """The files that the job left in one node's working directory."""
        return self._run(lambda handle: handle.files(node))

    def checkpoint(self) -> Path:
        """What the job's code knows as `kfasync.checkpoint_dir`, as a directory that this process can read."""
        return self._run(lambda handle: handle.checkpoint())
