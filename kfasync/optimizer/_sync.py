"""OptimizerClient: the blocking twin. Each method runs that of the async client on the portal's loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from kfasync.trainer._choice import choose
from kfasync.trainer._sync import config_key, going_on

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig
    from kfasync.jobs import Event, TrainJobTemplate
    from kfasync.optimizer._algorithms import Algorithm
    from kfasync.optimizer._asked import AskedTrial
    from kfasync.optimizer._asked import AskTellStudy as AsyncAskTellStudy
    from kfasync.optimizer._client import AsyncOptimizerClient
    from kfasync.optimizer._handle import StudyHandle as AsyncStudyHandle
    from kfasync.optimizer._objective import Objective, TrialConfig, TrialState
    from kfasync.optimizer._parameter import ParameterSpec
    from kfasync.optimizer._plan import StudyKeywords
    from kfasync.optimizer._stopping import EarlyStopping
    from kfasync.optimizer._study import StopRules
    from kfasync.optimizer._views import OptimizationJob, Result, Trial
    from kfasync.portal import Portal

__all__ = ["AskTellStudy", "OptimizerClient", "StudyHandle"]

T = TypeVar("T")

_COMPLETE = frozenset({"Complete"})


class OptimizerClient:
    """Search hyperparameters from scripts, threads and notebooks. A study outlives its client; each trial is a job.

    Every method blocks until it is done; Ctrl-C ends the call, never the study.

    Args:
        backend_config: Where trials run; chosen as by `kfasync.trainer.TrainerClient` when left out.

    Example:
        >>> optimizer = OptimizerClient()  # doctest: +SKIP
        >>> name = optimizer.optimize(template, search_space={"lr": Search.loguniform(1e-4, 1e-1)})  # doctest: +SKIP
        >>> optimizer.wait_for_job_status(name).status  # doctest: +SKIP
        'Complete'
    """

    def __init__(self, backend_config: BackendConfig | None = None) -> None:
        self._config = choose(backend_config)

    def _shared(self) -> tuple[Portal, AsyncOptimizerClient]:
        # Imported at first use, for a fast start; a child made by fork needs the portal of its own process.
        from kfasync import portal
        from kfasync.optimizer._client import AsyncOptimizerClient

        key = (AsyncOptimizerClient, *config_key(self._config))
        current = portal.current()
        return current, current.resource(key, lambda: AsyncOptimizerClient(self._config))

    def _run(self, call: Callable[[AsyncOptimizerClient], Coroutine[Any, Any, T]]) -> T:
        portal, client = self._shared()
        return portal.run(call, client)

    def optimize(
        self,
        trial_template: TrainJobTemplate,
        *,
        trial_config: TrialConfig | None = None,
        search_space: Mapping[str, ParameterSpec],
        objectives: Sequence[Objective] | None = None,
        algorithm: Algorithm | None = None,
        name: str | None = None,
        early_stopping: EarlyStopping | None = None,
        stop: StopRules | None = None,
        enqueue: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Start a study, which goes on without this process; see `AsyncOptimizerClient.optimize`."""
        return self._run(
            lambda client: client.optimize(
                trial_template,
                trial_config=trial_config,
                search_space=search_space,
                objectives=objectives,
                algorithm=algorithm,
                name=name,
                early_stopping=early_stopping,
                stop=stop,
                enqueue=enqueue,
            )
        )

    def submit(self, trial_template: TrainJobTemplate, **keywords: Unpack[StudyKeywords]) -> StudyHandle:
        """Start a study and get a handle on it; see `AsyncOptimizerClient.submit`."""

        async def on_loop(client: AsyncOptimizerClient) -> AsyncStudyHandle:
            return await client.submit(trial_template, **keywords)

        return StudyHandle(self, self._run(on_loop).name)

    def attach(self, name: str) -> StudyHandle:
        """A handle on a study that exists; see `AsyncOptimizerClient.attach`."""
        self._run(lambda client: client.attach(name))
        return StudyHandle(self, name)

    def study(self, *, wait: bool = False, **keywords: Unpack[StudyKeywords]) -> AskTellStudy:
        """Open a study whose trials the caller runs; see `AsyncOptimizerClient.study`."""

        async def on_loop(client: AsyncOptimizerClient) -> AsyncAskTellStudy:
            return client.study(wait=wait, **keywords)

        return AskTellStudy(self, self._run(on_loop))

    def list_jobs(self) -> list[OptimizationJob]:
        """The studies, the oldest first."""
        return self._run(lambda client: client.list_jobs())

    def get_job(self, name: str, *, curves: bool = True) -> OptimizationJob:
        """A study as it is now, with its trials; with ``curves`` what each reported on its way."""
        return self._run(lambda client: client.get_job(name, curves=curves))

    def report(self, name: str, path: str | PathLike[str]) -> Path:
        """Write what there is to see of a study now as one HTML file; see `AsyncOptimizerClient.report`."""
        return self._run(lambda client: client.report(name, path))

    def get_best_results(self, name: str, *, all: bool = False) -> Result | list[Result] | None:
        """The best trial so far; with ``all`` every one that no other one beats."""
        return self._run(lambda client: client.get_best_results(name, all=all))

    def get_job_logs(self, name: str, trial_name: str | None = None, follow: bool = False) -> Iterator[str]:
        """What a trial printed: the best so far, or the named one."""
        portal, client = self._shared()

        def source() -> AsyncGenerator[str, None]:
            return client.get_job_logs(name, trial_name, follow)

        with going_on(name):
            yield from portal.iterate(source)

    def get_job_events(self, name: str) -> list[Event]:
        """What happened to a study so far, in order."""
        return self._run(lambda client: client.get_job_events(name))

    def wait_for_job_status(
        self,
        name: str,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = 3600,
        polling_interval: float = 2,
        callbacks: Sequence[Callable[[OptimizationJob], object]] | None = None,
        *,
        progress: bool = True,
    ) -> OptimizationJob:
        """Wait for one of the given statuses, or the end; callbacks run on the caller's thread.

        With ``progress`` a line in the terminal, if there is one, says how far the study is.
        """

        async def on_loop(client: AsyncOptimizerClient, tell: Callable[[OptimizationJob], None]) -> OptimizationJob:
            return await client.wait_for_job_status(name, status, timeout, callbacks=[tell], progress=progress)

        def hear(job: OptimizationJob) -> None:
            for callback in callbacks or ():
                callback(job)

        portal, client = self._shared()
        with going_on(name):
            if not callbacks:
                return self._run(lambda client: client.wait_for_job_status(name, status, timeout, progress=progress))
            return portal.run_telling(lambda tell: on_loop(client, tell), hear)

    def cancel(self, name: str) -> None:
        """Have a study stopped with its trials."""
        self._run(lambda client: client.cancel(name))

    def suspend(self, name: str) -> None:
        """Have a study stopped with its trials, to be resumed later."""
        self._run(lambda client: client.suspend(name))

    def resume(self, name: str) -> None:
        """Have a suspended study go on, where it stopped."""
        self._run(lambda client: client.resume(name))

    def delete_job(self, name: str) -> None:
        """Stop a study if it runs and remove everything of it, its trials' jobs included."""
        self._run(lambda client: client.delete_job(name))


class StudyHandle:
    """One study, followed and controlled by blocking calls; the twin of `kfasync.optimizer._handle.StudyHandle`.

    Example:
        >>> study = client.submit(template, search_space=space)  # doctest: +SKIP
        >>> for trial in study.finished():  # doctest: +SKIP
        ...     print(trial.number, trial.parameters, study.best())
    """

    def __init__(self, client: OptimizerClient, name: str) -> None:
        self._client = client
        self._name = name

    def __repr__(self) -> str:
        return f"StudyHandle(name={self._name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing ends here: a study outlives whoever follows it."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self._name

    def job(self) -> OptimizationJob:
        """The study as it is now, with its trials."""
        return self._client.get_job(self._name)

    def best(self) -> Result | None:
        """The best trial so far; None when none is complete yet."""
        best = self._client.get_best_results(self._name)
        assert not isinstance(best, list)
        return best

    def finished(self) -> Iterator[Trial]:
        """Every trial that ends, from the study's first one on; ends with the study, and raises if that failed."""
        from kfasync.optimizer._handle import StudyHandle as AsyncStudyHandle

        portal, client = self._client._shared()
        with going_on(self._name):
            yield from portal.iterate(AsyncStudyHandle(client, self._name).finished)

    def wait(self, status: Collection[str] = _COMPLETE, timeout: float | None = None) -> OptimizationJob:
        """Wait for one of some statuses, or the end."""
        return self._client.wait_for_job_status(self._name, status, timeout)

    def cancel(self) -> None:
        """Have the study stopped with its trials; it ends as Failed(Cancelled)."""
        self._client.cancel(self._name)

    def suspend(self) -> None:
        """Have the study stopped with its trials, to be resumed later."""
        self._client.suspend(self._name)

    def resume(self) -> None:
        """Have a suspended study go on."""
        self._client.resume(self._name)

    def delete(self) -> None:
        """Stop the study if it runs and remove everything of it, its trials' jobs included."""
        self._client.delete_job(self._name)


class AskTellStudy:
    """A study whose trials the caller runs, by blocking calls; the twin of `kfasync.optimizer._asked.AskTellStudy`.

    Example:
        >>> with client.study(search_space={"x": Search.uniform(-1, 1)}) as study:  # doctest: +SKIP
        ...     while (trial := study.ask()) is not None:
        ...         study.tell(trial, trial.parameters["x"] ** 2)
    """

    def __init__(self, client: OptimizerClient, inner: AsyncAskTellStudy) -> None:
        self._inner = inner
        self._portal, _ = client._shared()

    def __enter__(self) -> Self:
        self._portal.run(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal.run(self._inner.__aexit__, kind, error, trace)

    @property
    def name(self) -> str:
        """The study's name."""
        return self._inner.name

    @property
    def best(self) -> list[Result]:
        """The complete trials that no other one beats; empty at first."""
        return self._inner.best

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, by number."""
        return self._inner.trials

    def ask(self) -> AskedTrial | None:
        """Something to try; None when there is nothing more."""
        return self._portal.run(self._inner.ask)

    def report(self, trial: AskedTrial | int, step: float, value: float) -> bool:
        """Say what a running trial has achieved so far; whether the early stopping rule wants it ended."""
        return self._portal.run(self._inner.report, trial, step, value)

    def tell(
        self,
        trial: AskedTrial | int,
        values: float | Mapping[str, float] | None = None,
        *,
        state: TrialState | str = "complete",
        message: str = "",
    ) -> None:
        """Say how a trial ended."""
        self._portal.run(lambda: self._inner.tell(trial, values, state=state, message=message))
