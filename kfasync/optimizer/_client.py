"""AsyncOptimizerClient: studies, each a job of local processes that starts and follows trials anywhere."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from kfasync.errors import JobNotFoundError, MissingExtraError
from kfasync.events import TrialEnded, TrialStarted
from kfasync.trainer._choice import choose

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig
    from kfasync.engine import JobHandle
    from kfasync.jobs import Event, TrainJobTemplate
    from kfasync.optimizer._algorithms import Algorithm
    from kfasync.optimizer._asked import AskTellStudy
    from kfasync.optimizer._handle import StudyHandle
    from kfasync.optimizer._objective import Objective, TrialConfig
    from kfasync.optimizer._opening import Opening
    from kfasync.optimizer._parameter import ParameterSpec
    from kfasync.optimizer._plan import StudyKeywords
    from kfasync.optimizer._stopping import EarlyStopping
    from kfasync.optimizer._study import StopRules
    from kfasync.optimizer._views import OptimizationJob, Result
    from kfasync.state import JobState
    from kfasync.trainer import AsyncTrainerClient

__all__ = ["AsyncOptimizerClient"]

_COMPLETE = frozenset({"Complete"})
# Times that the supervisor starts a study's driver again, and the longest pause before it in seconds. A driver dies
# when somebody kills it, or by a defect that the next one meets, too.
_DRIVERS, _PAUSE = 20, 1.0
# Seconds that a study has more than its trials between SIGTERM and SIGKILL, to see their ends.
_GRACE = 5.0


def _need_optuna() -> None:
    if find_spec("optuna") is None:
        raise MissingExtraError("optimizing hyperparameters", "optimizer")


class AsyncOptimizerClient:
    """Search hyperparameters from asyncio code. A study outlives its client; each trial is a job.

    A client belongs to the event loop that first used it. Close it with ``aclose`` or ``async with``.

    Args:
        backend_config: Where trials run; chosen as by `kfasync.trainer.AsyncTrainerClient` when left out.

    Example:
        >>> async with AsyncOptimizerClient() as client:  # doctest: +SKIP
        ...     name = await client.optimize(template, search_space={"lr": Search.loguniform(1e-4, 1e-1)})
        ...     await client.wait_for_job_status(name)
        ...     print(await client.get_best_results(name))
    """

    def __init__(self, backend_config: BackendConfig | None = None) -> None:
        from kfasync.optimizer._studies import Studies
        from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

        self._config = choose(backend_config)
        self._trials = AsyncTrainerClient(self._config)
        self._studies = AsyncTrainerClient(LocalProcessBackendConfig())
        self._known = Studies(self._studies, self._trials)
        self._own: tuple[AsyncTrainerClient, ...] = (self._trials, self._studies)

    @classmethod
    def _beside(cls, trials: AsyncTrainerClient) -> Self:
        """A client that shares another one of the place where trials run, and leaves it open at its own end."""
        from kfasync.optimizer._studies import Studies

        client = cls(trials._config)
        client._trials, client._own = trials, (client._studies,)
        client._known = Studies(client._studies, trials)
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of everything; studies and trials go on. May be repeated."""
        for client in self._own:
            await client.aclose()

    # --- starting ---

    async def optimize(
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
        """Start a study; it goes on without this process.

        Args:
            trial_template: The job that each trial is. Its function takes the parameters by name; a script (a path
                instead of the function) or an image reads them by `kfasync.get_hyperparameters`, or from the variables
                ``KUBEFLOW_TRAINER_OPT_<NAME>``.
            trial_config: How many trials, at once and in all.
            search_space: What `Search` gives, by parameter.
            objectives: What is optimised; by default the metric ``loss``, to be small.
            algorithm: How; by default at random.
            name: The study's name. The same name with the same study is the same study, and goes on.
            early_stopping: When a trial is ended early, by its live metrics.
            stop: When the study is.
            enqueue: Points to try first, in full or in part.

        Returns:
            The study's name.

        Raises:
            InvalidSpecError: Something can't be; the message names the parameter. Nothing was created.
            MissingExtraError: Optuna is not installed.
            JobExistsError: The name belongs to something else.
        """
        from kfasync import settings
        from kfasync.jobs import JobSpec, RestartPolicy, check_name, new_name
        from kfasync.optimizer._driver import drive
        from kfasync.optimizer._order import Order
        from kfasync.optimizer._trials import go_on
        from kfasync.payload import from_function

        _need_optuna()
        order = Order.of(
            trial_template,
            search_space,
            objectives=objectives,
            algorithm=algorithm,
            config=trial_config,
            stopping=early_stopping,
            rules=stop,
            enqueued=enqueue,
            backend=self._config,
        )
        study = check_name(new_name() if name is None else name)
        await self._trials._check(
            dataclasses.replace(order.template, trainer=order.probe()),
            f"{study}-{order.config.num_trials - 1}-r1",
            checkpoint_from=f"{study}-0" if order.algorithm.hands_on else None,
        )
        payload = await asyncio.to_thread(from_function, drive, {"order": order})
        spec = JobSpec(
            name=study,
            entry="study",
            entry_name=order.what,
            restart=RestartPolicy(max_restarts=_DRIVERS, backoff=0.1, max_backoff=_PAUSE),
            payload_digest=payload.digest,
            grace=settings.load().grace + _GRACE,
            extra={"study": order.describe()},
        )
        handle = await self._studies.engine.submit(spec, payload)
        await go_on(handle, await handle.state())
        return handle.name

    def submit(self, trial_template: TrainJobTemplate, **keywords: Unpack[StudyKeywords]) -> Opening[StudyHandle]:
        """Start a study and get a handle on it; arguments and errors are those of `optimize`.

        Example:
            >>> async with client.submit(template, search_space=space) as study:  # doctest: +SKIP
            ...     async for trial in study.finished():
            ...         print(trial.number, trial.status, trial.metrics)
        """
        from kfasync.optimizer._handle import StudyHandle
        from kfasync.optimizer._opening import Opening

        async def make() -> StudyHandle:
            return StudyHandle(self, await self.optimize(trial_template, **keywords))

        return Opening(make)

    async def attach(self, name: str) -> StudyHandle:
        """A handle on a study that exists, whichever process started it.

        Raises:
            JobNotFoundError: No such study.
        """
        from kfasync.optimizer._handle import StudyHandle

        await self._known.state(name)
        return StudyHandle(self, name)

    def study(self, *, wait: bool = False, **keywords: Unpack[StudyKeywords]) -> AskTellStudy:
        """Open a study whose trials the caller runs: it asks what to try and tells what came of it.

        Args:
            wait: Whether to wait, when another process drives the study, until that one ends; else it is an error.
            keywords: As for `optimize`. The same name with the same study goes on where it stopped.

        Raises:
            InvalidSpecError: Something can't be; the message names the parameter.
            MissingExtraError: Optuna is not installed.

        Example:
            >>> async with client.study(search_space={"x": Search.uniform(-1, 1)}) as study:  # doctest: +SKIP
            ...     while (trial := await study.ask()) is not None:
            ...         await study.tell(trial, trial.parameters["x"] ** 2)
        """
        from kfasync.jobs import check_name, new_name
        from kfasync.optimizer._asked import AskTellStudy
        from kfasync.optimizer._plan import StudyPlan

        _need_optuna()
        name = keywords.get("name")
        plan = StudyPlan.checked(
            keywords["search_space"],
            objectives=keywords.get("objectives"),
            algorithm=keywords.get("algorithm"),
            config=keywords.get("trial_config"),
            stopping=keywords.get("early_stopping"),
            rules=keywords.get("stop"),
            enqueued=keywords.get("enqueue", ()),
        )
        return AskTellStudy(self._studies.engine, check_name(new_name() if name is None else name), plan, wait=wait)

    # --- looking ---

    async def list_jobs(self) -> list[OptimizationJob]:
        """The studies, the oldest first."""
        return await self._known.all()

    async def get_job(self, name: str, *, curves: bool = True) -> OptimizationJob:
        """A study as it is now, with its trials.

        Args:
            name: The study.
            curves: With what each trial reported on its way; half a second of work for 1,000 trials of 50 reports.

        Raises:
            JobNotFoundError: No such study.
        """
        return await self._known.view(await self._known.state(name), curves=curves)

    async def report(self, name: str, path: str | PathLike[str]) -> Path:
        """Write what there is to see of a study now to a path, as one HTML file that needs no network; gives the path.

        Raises:
            JobNotFoundError: No such study.
            MissingExtraError: plotly is not installed.
            OSError: The file can't be written.
        """
        from kfasync.optimizer._report import write_report

        return await asyncio.to_thread(write_report, await self.get_job(name), Path(path))

    async def get_best_results(self, name: str, *, all: bool = False) -> Result | list[Result] | None:
        """The best trial so far.

        Args:
            name: The study.
            all: Every trial that no other one beats, in a list: with several objectives the Pareto front.

        Returns:
            The best, None when no trial is complete yet; with ``all`` a list.

        Raises:
            JobNotFoundError: No such study.
        """
        from kfasync.optimizer._views import result_of

        _, study = await self._known.find(name)
        best = [result_of(trial) for trial in study.best]
        if all:
            return best
        return best[0] if best else None

    async def get_job_logs(
        self, name: str, trial_name: str | None = None, follow: bool = False
    ) -> AsyncGenerator[str, None]:
        """What a trial printed.

        Args:
            name: The study.
            trial_name: The trial; by default the best so far, else the first one.
            follow: Wait for more until the trial has ended.

        Raises:
            JobNotFoundError: No such study, or no such trial in it.
        """
        state, study = await self._known.find(name)
        shown = study.best or list(study.trials.values())
        if trial_name is None:
            if not shown:
                return
            trial_name = shown[0].name
        if not any(trial_name in trial.names for trial in study.trials.values()):
            raise JobNotFoundError(trial_name, f"the study {name!r}")
        if await self._known.job_of(name, trial_name) is None:
            if not follow or not any(trial_name == trial.name for trial in study.running):
                return
            await self._known.created(trial_name, state.cursor)
        async with aclosing(self._trials.get_job_logs(trial_name, follow=follow)) as lines:
            async for line in lines:
                yield line

    async def get_job_events(self, name: str) -> list[Event]:
        """What happened to a study so far, its trials included, in order.

        Raises:
            JobNotFoundError: No such study.
        """
        await self._known.state(name)
        return await self._studies.get_job_events(name)

    async def wait_for_job_status(
        self,
        name: str,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = 3600,
        polling_interval: float = 2,
        callbacks: Sequence[Callable[[OptimizationJob], object]] | None = None,
        *,
        progress: bool = True,
    ) -> OptimizationJob:
        """Wait until a study reaches one of some statuses, or has passed them.

        Args:
            name: The study.
            status: Wanted: Created, Running, Suspended, Complete, Failed.
            timeout: Seconds; None waits for ever.
            polling_interval: Accepted for Kubeflow's sake and ignored: nothing polls.
            callbacks: Called with the study at each change of it or of a trial, and at the end.
            progress: Where standard error is a terminal, have one line there say how far the study is.

        Raises:
            JobFailedError: It failed, and Failed was not wanted.
            WaitTimeoutError: The time passed; the study goes on.
            JobNotFoundError: No such study.
        """
        from kfasync.optimizer._progress import showing

        state = await self._known.state(name)
        async with self._watched(state), showing(self._known, state) if progress else nullcontext():
            return await self._wait(await self._studies.attach(name), status, timeout, callbacks or ())

    @asynccontextmanager
    async def _watched(self, state: JobState) -> AsyncIterator[None]:
        """Within it a study that its caller drives does not pass for running when that one has died."""
        from kfasync.optimizer._asked import watch

        if state.job_spec.entry != "asked":
            yield
            return
        watching = asyncio.create_task(watch(self._studies.engine, state.name))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _wait(
        self,
        handle: JobHandle,
        status: Collection[str],
        timeout: float | None,
        callbacks: Sequence[Callable[[OptimizationJob], object]],
    ) -> OptimizationJob:
        if not callbacks:
            return await self._known.view(await handle.wait(status, timeout))
        changes: asyncio.Queue[JobState | None] = asyncio.Queue()
        waiting = asyncio.create_task(handle.wait(status, timeout, on_change=changes.put_nowait))
        waiting.add_done_callback(lambda _: changes.put_nowait(None))
        trials = asyncio.create_task(self._tell_of_trials(handle, changes))
        try:
            while (change := await changes.get()) is not None:
                view = await self._known.view(change)
                for callback in callbacks:
                    callback(view)
            return await self._known.view(await waiting)
        finally:
            waiting.cancel()
            trials.cancel()
            await asyncio.wait([waiting, trials])

    async def _tell_of_trials(self, handle: JobHandle, changes: asyncio.Queue[JobState | None]) -> None:
        """Put the study's state into the queue at each change of a trial."""
        async with aclosing(self._studies.events(job=handle.name)) as events:
            async for event in events:
                # One look tells of all trials that changed since the last one.
                if isinstance(event, TrialStarted | TrialEnded) and changes.empty():
                    changes.put_nowait(await handle.state())

    # --- controlling ---

    async def cancel(self, name: str) -> None:
        """Have a study stopped with its trials; it ends as Failed(Cancelled). Returns when it has."""
        await self._known.state(name)
        await self._studies.cancel(name)
        await (await self._studies.attach(name)).wait({"Complete", "Failed"})
        for trial in await self._left_running(name):
            await trial.cancel()

    async def suspend(self, name: str) -> None:
        """Have a study stopped with its trials, to be resumed later. Returns when it is."""
        await self._known.state(name)
        await self._studies.suspend(name)
        await (await self._studies.attach(name)).wait({"Suspended", "Complete", "Failed"})
        for trial in await self._left_running(name):
            await trial.suspend()

    async def _left_running(self, name: str) -> list[JobHandle]:
        """Jobs of trials that go on although their study does not: its driver was dead when it was stopped."""
        _, study = await self._known.find(name)
        return [handle for trial in study.running if (handle := await self._known.job_of(name, trial.name)) is not None]

    async def resume(self, name: str) -> None:
        """Have a suspended study go on, where it stopped."""
        await self._known.state(name)
        await self._studies.resume(name)

    async def delete_job(self, name: str) -> None:
        """Stop a study if it runs and remove everything of it, its trials' jobs included.

        Raises:
            JobNotFoundError: No such study.
        """
        await self.cancel(name)
        _, study = await self._known.find(name)
        for trial in study.trials.values():
            for job in trial.names:
                if (handle := await self._known.job_of(name, job)) is not None:
                    await handle.delete()
        await self._studies.delete_job(name)
