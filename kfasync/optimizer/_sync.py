"""OptimizerClient: the blocking twin. Each method runs that of the async client on the portal's loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kfasync.trainer._choice import choose
from kfasync.trainer._sync import config_key, going_on

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig
    from kfasync.jobs import Event, TrainJobTemplate
    from kfasync.optimizer._algorithms import Algorithm
    from kfasync.optimizer._client import AsyncOptimizerClient
    from kfasync.optimizer._objective import Objective, TrialConfig
    from kfasync.optimizer._parameter import ParameterSpec
    from kfasync.optimizer._stopping import EarlyStopping
    from kfasync.optimizer._study import StopRules
    from kfasync.optimizer._views import OptimizationJob, Result
    from kfasync.portal import Portal

__all__ = ["OptimizerClient"]

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

    def list_jobs(self) -> list[OptimizationJob]:
        """The studies, the oldest first."""
        return self._run(lambda client: client.list_jobs())

    def get_job(self, name: str) -> OptimizationJob:
        """A study as it is now, with its trials."""
        return self._run(lambda client: client.get_job(name))

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
    ) -> OptimizationJob:
        """Wait for one of the given statuses, or the end; callbacks run on the caller's thread."""

        async def on_loop(client: AsyncOptimizerClient, tell: Callable[[OptimizationJob], None]) -> OptimizationJob:
            return await client.wait_for_job_status(name, status, timeout, polling_interval, [tell])

        def hear(job: OptimizationJob) -> None:
            for callback in callbacks or ():
                callback(job)

        portal, client = self._shared()
        with going_on(name):
            if not callbacks:
                return portal.run(client.wait_for_job_status, name, status, timeout, polling_interval)
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
