"""AsyncTrainerClient: the user's calls, turned into specs for the engine and views of what it says."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import warnings
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from kfasync import log
from kfasync.errors import ClientClosedError, InvalidSpecError, RuntimeNotFoundError
from kfasync.trainer._choice import choose

if TYPE_CHECKING:
    from kfasync.backends.base import Backend, BackendConfig
    from kfasync.engine import Engine
    from kfasync.engine import JobHandle as AsyncJobHandle
    from kfasync.events import Event as JobEvent
    from kfasync.jobs import Event, Initializer, Option, Runtime, Trainer, TrainJob, TrainJobTemplate
    from kfasync.optimizer import AsyncOptimizerClient, OptimizationJob, Result
    from kfasync.optimizer._plan import StudyKeywords
    from kfasync.state import JobState, MetricSummary
    from kfasync.trainer._build import Plan, TrainKeywords

__all__ = ["AsyncTrainerClient"]

_log = log.get("trainer")
_COMPLETE = frozenset({"Complete"})
#: What studies are made with. It builds on this module, so it is loaded by name, when somebody asks for a study.
_OPTIMIZER = "kfasync.optimizer._client:AsyncOptimizerClient"


class AsyncTrainerClient:
    """Train models from asyncio code: many jobs at once, nothing polls.

    A client belongs to the event loop that first used it. Close it with ``aclose`` or ``async with``; its jobs go on.

    Args:
        backend_config: Where jobs run. None takes KFASYNC_BACKEND; else, inside a pod, that cluster; else the cluster
            of the kubeconfig's current context; else processes of this machine.

    Raises:
        InvalidSpecError: It is no backend config.
        UnsupportedError: This version can't run jobs there.

    Example:
        >>> async with AsyncTrainerClient() as client:  # doctest: +SKIP
        ...     name = await client.train(train_func=train_model, num_nodes=2)
        ...     job = await client.wait_for_job_status(name)
    """

    def __init__(self, backend_config: BackendConfig | None = None) -> None:
        self._engine: Engine | None = None
        self._optimizer: AsyncOptimizerClient | None = None
        self._closed = False
        self._config = choose(backend_config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None and not self._closed:
            warnings.warn(f"unclosed {self!r}: use aclose() or async with", ResourceWarning, stacklevel=2, source=self)

    async def aclose(self) -> None:
        """Let go of everything; jobs and studies go on. May be repeated."""
        if self._optimizer is not None:
            await self._optimizer.aclose()
        if self._engine is not None:
            await self._engine.aclose()
        self._closed = True

    @property
    def engine(self) -> Engine:
        """The engine, for what is built on jobs, such as studies."""
        return self._open()

    def _open(self) -> Engine:
        """The engine, made at first use: a client that is never used costs no import of its backend."""
        if self._engine is None:
            from kfasync import settings
            from kfasync.engine import Engine

            if self._closed:
                raise ClientClosedError("the client was closed")
            module, _, attribute = self._config.backend_path.partition(":")
            self._backend: Backend = getattr(import_module(module), attribute)(self._config)
            self._engine = Engine(self._backend, settings.load().home / "journal.sqlite3")
        return self._engine

    # --- submitting ---

    async def train(
        self,
        runtime: str | Runtime | None = None,
        initializer: Initializer | None = None,
        trainer: Trainer | None = None,
        options: Sequence[Option] | None = None,
        **keywords: Unpack[TrainKeywords],
    ) -> str:
        """Submit a job.

        Args:
            runtime: A runtime or its name; None takes ``torch-distributed``.
            initializer: Dataset and model to fetch first.
            trainer: What to train; or give ``train_func=`` or ``script=``.
            options: Callables ``(job_spec, trainer, backend)``, such as those of `kfasync.trainer.options`.
            keywords: See `TrainKeywords`.

        Returns:
            The job's name.

        Raises:
            InvalidSpecError: An argument can't be used; nothing was created.
            RuntimeNotFoundError: No such runtime; lists those that exist.
            JobExistsError: The name belongs to a job with another spec.
            BackendError: The place refused it.

        Example:
            >>> name = await client.train(train_func=train_model, num_nodes=2)  # doctest: +SKIP
        """
        return (await self.submit(runtime, initializer, trainer, options, **keywords)).name

    async def submit(
        self,
        runtime: str | Runtime | None = None,
        initializer: Initializer | None = None,
        trainer: Trainer | None = None,
        options: Sequence[Option] | None = None,
        **keywords: Unpack[TrainKeywords],
    ) -> AsyncJobHandle:
        """Submit a job and get a handle on it; arguments and errors are those of `train`.

        Example:
            >>> handle = await client.submit(train_func=train_model)  # doctest: +SKIP
            >>> value = await handle.result()  # doctest: +SKIP
        """
        engine = self._open()
        await engine.prepare()
        plan = await self._plan(runtime, initializer, trainer, options, keywords)
        from kfasync.jobs._spec import RANK_VARIABLES

        handle = await engine.submit(plan.spec, plan.payload, plan.secrets)
        if ignored := sorted(plan.spec.env.keys() & RANK_VARIABLES):
            _log.warning("env_ignored", job=handle.name, variables=ignored, why="they are set for each rank")
        return handle

    async def _plan(
        self,
        runtime: str | Runtime | None,
        initializer: Initializer | None,
        trainer: Trainer | None,
        options: Sequence[Option] | None,
        keywords: TrainKeywords,
    ) -> Plan:
        """What a call asks for, checked as far as it can be without the place."""
        engine = self._open()
        if "kfasync.trainer._build" not in sys.modules:
            # The first time: in a thread, so that a supervisor starts meanwhile and the caller's loop goes on.
            await asyncio.to_thread(import_module, "kfasync.trainer._build")
        from kfasync import settings
        from kfasync.trainer._build import Call, build

        return build(
            Call(runtime=runtime, initializer=initializer, trainer=trainer, options=options, keywords=keywords),
            await engine.runtimes(),
            self._backend,
            grace=settings.load().grace,
            strict=bool(getattr(self._config, "strict", False)),
        )

    async def _check(self, template: TrainJobTemplate, name: str, checkpoint_from: str | None = None) -> None:
        """Raise what `submit` would raise about such a job, before anything is created."""
        keywords: TrainKeywords = {"name": name, "checkpoint_from": checkpoint_from}
        plan = await self._plan(template.runtime, template.initializer, template.trainer, None, keywords)
        await self._open().check(plan.spec, plan.payload)

    async def attach(self, name: str) -> AsyncJobHandle:
        """A handle on a job that exists, whichever process submitted it.

        Raises:
            JobNotFoundError: No such job.
        """
        return await self._open().handle(name)

    # --- studies, under the names of Kubeflow's proposal; a trial is a job like any other ---

    def _studies(self) -> AsyncOptimizerClient:
        if self._optimizer is None:
            self._open()
            module, _, attribute = _OPTIMIZER.partition(":")
            self._optimizer = getattr(import_module(module), attribute)._beside(self)
        assert self._optimizer is not None
        return self._optimizer

    async def optimize(self, trial_template: TrainJobTemplate, **keywords: Unpack[StudyKeywords]) -> str:
        """Start a study whose trials are jobs of this place; see `kfasync.optimizer.AsyncOptimizerClient.optimize`.

        Args:
            trial_template: The job that each trial is: what ``train(**template)`` runs once.
            keywords: ``search_space``, ``objectives``, ``algorithm``, ``trial_config``, ``name``, ….

        Returns:
            The study's name.

        Example:
            >>> name = await client.optimize(template, search_space={"lr": Search.uniform(0, 1)})  # doctest: +SKIP
            >>> study = await client.wait_for_optimization_job_status(name)  # doctest: +SKIP
        """
        return await self._studies().optimize(trial_template, **keywords)

    async def list_optimization_jobs(self) -> list[OptimizationJob]:
        """The studies, the oldest first."""
        return await self._studies().list_jobs()

    async def get_optimization_job(self, name: str) -> OptimizationJob:
        """A study as it is now, with its trials.

        Raises:
            JobNotFoundError: No such study.
        """
        return await self._studies().get_job(name)

    async def get_best_results(self, name: str, *, all: bool = False) -> Result | list[Result] | None:
        """The best trial of a study so far; with ``all`` every one that no other one beats."""
        return await self._studies().get_best_results(name, all=all)

    async def wait_for_optimization_job_status(
        self,
        name: str,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = 3600,
        polling_interval: float = 2,
        callbacks: Sequence[Callable[[OptimizationJob], object]] | None = None,
    ) -> OptimizationJob:
        """Wait until a study reaches one of some statuses; arguments and errors as for `wait_for_job_status`."""
        return await self._studies().wait_for_job_status(name, status, timeout, polling_interval, callbacks)

    async def delete_optimization_job(self, name: str) -> None:
        """Stop a study if it runs and remove everything of it, its trials' jobs included."""
        await self._studies().delete_job(name)

    # --- looking ---

    async def list_jobs(self, runtime: Runtime | None = None) -> list[TrainJob]:
        """The jobs of the place, the oldest first.

        Args:
            runtime: Only jobs of this runtime.
        """
        from kfasync.trainer._views import job_view

        engine = self._open()
        runtimes = await engine.runtimes()
        jobs = [job_view(state, runtimes) for state in await engine.jobs() if not state.job_spec.is_study]
        return [job for job in jobs if runtime is None or job.runtime.name == runtime.name]

    async def get_job(self, name: str) -> TrainJob:
        """A job as it is now.

        Raises:
            JobNotFoundError: No such job.
        """
        from kfasync.trainer._views import job_view

        engine = self._open()
        return job_view(await engine.job(name), await engine.runtimes())

    async def get_job_logs(
        self,
        name: str,
        step: str | None = "node-0",
        follow: bool | None = False,
        *,
        rank: int | None = None,
        tail: int | None = None,
        since: str | float | None = None,
        attempt: int | None = None,
    ) -> AsyncGenerator[str, None]:
        """The lines that a job printed, stdout and stderr.

        Args:
            name: The job.
            step: ``node-0``, ``node-1``, …; None merges all nodes and puts ``[node-0] `` before each line.
            follow: Wait for more until the job has ended; for its start, too.
            rank: Only this global rank.
            tail: Only the last so many lines of what is there now.
            since: Unix time in seconds, or the cursor of a `LogLine` (from a handle's ``logs``), to go on behind it.
            attempt: One attempt; None for the latest.

        Raises:
            JobNotFoundError: No such job.
        """
        from kfasync.trainer._views import line_view

        handle = await self._open().handle(name)
        lines = handle.logs(step, rank=rank, follow=bool(follow), tail=tail, since=since, attempt=attempt)
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line_view(line, merged=step is None)

    async def get_job_events(self, name: str) -> list[Event]:
        """What happened to a job so far, in order, for a person to read.

        Raises:
            JobNotFoundError: No such job.
        """
        from kfasync.trainer._views import event_view

        engine = self._open()
        end = (await engine.job(name)).cursor
        views = []
        async with contextlib.aclosing(engine.events(since=0, job=name)) as events:
            async for event in events:
                views.append(event_view(event))
                if event.cursor >= end:
                    break
        return [view for view in views if view is not None]

    async def get_job_metrics(self, name: str) -> Mapping[str, MetricSummary]:
        """Smallest, largest and latest value of each metric that a job has reported so far, by metric name.

        Raises:
            JobNotFoundError: No such job.
        """
        return await self._open().job_metrics(name)

    async def events(self, since: int | None = None, job: str | None = None) -> AsyncGenerator[JobEvent, None]:
        """What happens to the jobs of this place, as typed events in one order, none missing and none twice.

        Args:
            since: The cursor of an event, to go on behind it; 0 for everything; None for what happens from now on.
            job: Only this job; the stream ends when it is deleted.

        Example:
            >>> async for event in client.events(since=0):  # doctest: +SKIP
            ...     print(event.cursor, event.job, event)
        """
        async with contextlib.aclosing(self._open().events(since, job)) as events:
            async for event in events:
                yield event

    async def wait_for_job_status(
        self,
        name: str,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = 600,
        polling_interval: float = 2,
        callbacks: Sequence[Callable[[TrainJob], object]] | None = None,
    ) -> TrainJob:
        """Wait until a job reaches one of some statuses, or has passed them.

        Args:
            name: The job.
            status: Wanted: Created, Running, Suspended, Complete, Failed.
            timeout: Seconds; None waits for ever.
            polling_interval: Accepted for Kubeflow's sake and ignored: nothing polls.
            callbacks: Called with the job now, at each change, and at the end. An error of theirs ends the wait, not
                the job.

        Returns:
            The job as it was then.

        Raises:
            JobFailedError: It failed, and Failed was not wanted.
            WaitTimeoutError: The time passed; the job goes on.
            JobNotFoundError: No such job.
            InvalidSpecError: No such status.
        """
        from kfasync.trainer._views import job_view

        engine = self._open()
        runtimes = await engine.runtimes()

        def changed(state: JobState) -> None:
            for callback in callbacks or ():
                callback(job_view(state, runtimes))

        handle = await engine.handle(name)
        return job_view(await handle.wait(status, timeout, on_change=changed if callbacks else None), runtimes)

    # --- controlling ---

    async def cancel(self, name: str) -> None:
        """Have a job stopped; it ends as Failed(Cancelled) and keeps its logs. One that has ended stays as it is."""
        await (await self._open().handle(name)).cancel()

    async def suspend(self, name: str) -> None:
        """Have a job stopped with grace, to be resumed later; its resources become free."""
        await (await self._open().handle(name)).suspend()

    async def resume(self, name: str) -> None:
        """Have a suspended job start again, as a new attempt in the same working directory."""
        await (await self._open().handle(name)).resume()

    async def delete_job(self, name: str) -> None:
        """Stop a job if it runs and remove everything of it; its name is free again.

        Raises:
            JobNotFoundError: No such job.
        """
        await self._open().delete(name)

    # --- runtimes ---

    async def list_runtimes(self) -> list[Runtime]:
        """The training runtimes of the place."""
        return await self._open().runtimes()

    async def get_runtime(self, name: str) -> Runtime:
        """One training runtime.

        Raises:
            RuntimeNotFoundError: No such runtime; lists those that exist.
        """
        runtimes = await self._open().runtimes()
        for runtime in runtimes:
            if runtime.name == name:
                return runtime
        raise RuntimeNotFoundError(name, [runtime.name for runtime in runtimes])

    async def get_runtime_packages(self, runtime: Runtime) -> str:
        """Print and return the Python version, the packages and the devices of a runtime.

        Raises:
            InvalidSpecError: It is no Runtime.
            RuntimeNotFoundError: The place has no such runtime.
        """
        name = getattr(runtime, "name", None)
        if not isinstance(name, str):
            raise InvalidSpecError(f"get_runtime_packages takes a Runtime from get_runtime(…), not {runtime!r}")
        text = await self._open().runtime_packages(await self.get_runtime(name))
        print(text)
        return text
