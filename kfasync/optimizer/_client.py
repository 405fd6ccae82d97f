"""AsyncOptimizerClient: studies, each a job of local processes that starts and follows trials anywhere."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kfasync.errors import JobNotFoundError, MissingExtraError, ResultError
from kfasync.events import JobSubmitted, TrialEnded, TrialStarted
from kfasync.trainer._choice import choose

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig
    from kfasync.engine import JobHandle
    from kfasync.jobs import Event, TrainJobTemplate
    from kfasync.optimizer._algorithms import Algorithm
    from kfasync.optimizer._objective import Objective, TrialConfig
    from kfasync.optimizer._parameter import ParameterSpec
    from kfasync.optimizer._stopping import EarlyStopping
    from kfasync.optimizer._study import StopRules, Study
    from kfasync.optimizer._views import OptimizationJob, Result
    from kfasync.state import JobState

__all__ = ["AsyncOptimizerClient"]

_COMPLETE = frozenset({"Complete"})
# Times that the supervisor starts a study's driver again, and the longest pause before it in seconds. A driver dies
# when somebody kills it, or by a defect that the next one meets, too.
_DRIVERS, _PAUSE = 20, 1.0
# Seconds that a study has more than its trials between SIGTERM and SIGKILL, to see their ends.
_GRACE = 5.0


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
        from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig

        self._config = choose(backend_config)
        self._trials = AsyncTrainerClient(self._config)
        self._studies = AsyncTrainerClient(LocalProcessBackendConfig())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of everything; studies and trials go on. May be repeated."""
        await self._trials.aclose()
        await self._studies.aclose()

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
            trial_template: The job that each trial is; its function takes the parameters by name.
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
        from kfasync.payload import from_function

        if find_spec("optuna") is None:
            raise MissingExtraError("optimizing hyperparameters", "optimizer")
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
            dataclasses.replace(order.template, trainer=order.probe()), f"{study}-{order.config.num_trials - 1}-r1"
        )
        payload = await asyncio.to_thread(from_function, drive, {"order": order})
        spec = JobSpec(
            name=study,
            entry="study",
            entry_name=getattr(order.template.trainer.func, "__qualname__", ""),
            restart=RestartPolicy(max_restarts=_DRIVERS, backoff=0.1, max_backoff=_PAUSE),
            payload_digest=payload.digest,
            grace=settings.load().grace + _GRACE,
            extra={"study": order.describe()},
        )
        return (await self._studies.engine.submit(spec, payload)).name

    # --- looking ---

    async def _find(self, name: str) -> tuple[JobState, Study]:
        """A study's own job and its bookkeeping.

        Raises:
            JobNotFoundError: There is no study of this name.
        """
        state = await self._studies.engine.job(name)
        return state, await self._study(state)

    async def _study(self, state: JobState) -> Study:
        from kfasync.optimizer._objective import Objective, TrialConfig
        from kfasync.optimizer._study import StopRules, Study

        if state.job_spec.entry != "study":
            raise JobNotFoundError(state.name, state.place)
        told = state.spec["extra"]["study"]
        study = Study(
            [Objective.from_dict(each) for each in told["objectives"]],
            TrialConfig.from_dict(told["trial_config"]),
            StopRules(**told["rules"]),
        )
        for event in await self._studies.engine.history(state.uid):
            study.apply(event)
        return study

    async def _views(self, states: Sequence[JobState]) -> list[OptimizationJob]:
        from kfasync.optimizer._views import study_of

        jobs = {job.name: job for job in await self._trials.list_jobs()}
        return [study_of(state, await self._study(state), jobs, await self._told(state)) for state in states]

    async def _told(self, state: JobState) -> Mapping[str, str]:
        """What the driver of a complete study told at its end: reason and message."""
        if state.status.value != "Complete":
            return {}
        try:
            told: dict[str, str] = await (await self._studies.attach(state.name)).result()
        except (ResultError, JobNotFoundError):
            return {}
        return told

    async def _view(self, state: JobState) -> OptimizationJob:
        return (await self._views([state]))[0]

    async def list_jobs(self) -> list[OptimizationJob]:
        """The studies, the oldest first."""
        states = await self._studies.engine.jobs()
        return await self._views([state for state in states if state.job_spec.entry == "study"])

    async def get_job(self, name: str) -> OptimizationJob:
        """A study as it is now, with its trials.

        Raises:
            JobNotFoundError: No such study.
        """
        return await self._view(await self._studies.engine.job(name))

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

        _, study = await self._find(name)
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
        state, study = await self._find(name)
        shown = study.best or list(study.trials.values())
        if trial_name is None:
            if not shown:
                return
            trial_name = shown[0].name
        if not any(trial_name in trial.names for trial in study.trials.values()):
            raise JobNotFoundError(trial_name, f"the study {name!r}")
        if await self._job_of(name, trial_name) is None:
            if not follow or not any(trial_name == trial.name for trial in study.running):
                return
            await self._created(trial_name, state.cursor)
        async with aclosing(self._trials.get_job_logs(trial_name, follow=follow)) as lines:
            async for line in lines:
                yield line

    async def _created(self, trial: str, cursor: int) -> None:
        """Wait until the job of a trial is there, which was decided on but not there yet at a cursor."""
        async with aclosing(self._trials.events(since=cursor)) as events:
            async for event in events:
                if event.job == trial and isinstance(event, JobSubmitted):
                    return

    async def get_job_events(self, name: str) -> list[Event]:
        """What happened to a study so far, its trials included, in order.

        Raises:
            JobNotFoundError: No such study.
        """
        await self._find(name)
        return await self._studies.get_job_events(name)

    async def wait_for_job_status(
        self,
        name: str,
        status: Collection[str] = _COMPLETE,
        timeout: float | None = 3600,
        polling_interval: float = 2,
        callbacks: Sequence[Callable[[OptimizationJob], object]] | None = None,
    ) -> OptimizationJob:
        """Wait until a study reaches one of some statuses, or has passed them.

        Args:
            name: The study.
            status: Wanted: Created, Running, Suspended, Complete, Failed.
            timeout: Seconds; None waits for ever.
            polling_interval: Accepted for Kubeflow's sake and ignored: nothing polls.
            callbacks: Called with the study at each change of it or of a trial, and at the end.

        Raises:
            JobFailedError: It failed, and Failed was not wanted.
            WaitTimeoutError: The time passed; the study goes on.
            JobNotFoundError: No such study.
        """
        await self._find(name)
        handle = await self._studies.attach(name)
        if not callbacks:
            return await self._view(await handle.wait(status, timeout))
        changes: asyncio.Queue[JobState | None] = asyncio.Queue()
        waiting = asyncio.create_task(handle.wait(status, timeout, on_change=changes.put_nowait))
        waiting.add_done_callback(lambda _: changes.put_nowait(None))
        trials = asyncio.create_task(self._tell_of_trials(handle, changes))
        try:
            while (change := await changes.get()) is not None:
                view = await self._view(change)
                for callback in callbacks:
                    callback(view)
            return await self._view(await waiting)
        finally:
            waiting.cancel()
            trials.cancel()
            await asyncio.wait([waiting, trials])

    async def _tell_of_trials(self, handle: JobHandle, changes: asyncio.Queue[JobState | None]) -> None:
        """Put the study's state into the queue at each change of a trial."""
        events = self._studies.events(job=handle.name)
        async with aclosing(events):
            async for event in events:
                # One look tells of all trials that changed since the last one.
                if isinstance(event, TrialStarted | TrialEnded) and changes.empty():
                    changes.put_nowait(await handle.state())

    # --- controlling ---

    async def cancel(self, name: str) -> None:
        """Have a study stopped with its trials; it ends as Failed(Cancelled). Returns when it has."""
        await self._find(name)
        await self._studies.cancel(name)
        await (await self._studies.attach(name)).wait({"Complete", "Failed"})
        for trial in await self._left_running(name):
            await trial.cancel()

    async def suspend(self, name: str) -> None:
        """Have a study stopped with its trials, to be resumed later. Returns when it is."""
        await self._find(name)
        await self._studies.suspend(name)
        await (await self._studies.attach(name)).wait({"Suspended", "Complete", "Failed"})
        for trial in await self._left_running(name):
            await trial.suspend()

    async def _left_running(self, name: str) -> list[JobHandle]:
        """Jobs of trials that go on although their study does not: its driver was dead when it was stopped."""
        _, study = await self._find(name)
        return [handle for trial in study.running if (handle := await self._job_of(name, trial.name)) is not None]

    async def _job_of(self, study: str, name: str) -> JobHandle | None:
        """The job of a trial, if it is there and the study's own."""
        from kfasync.optimizer._order import STUDY_LABEL

        try:
            handle = await self._trials.attach(name)
            state = await handle.state()
        except JobNotFoundError:
            return None
        return handle if state.job_spec.labels.get(STUDY_LABEL) == study else None

    async def resume(self, name: str) -> None:
        """Have a suspended study go on, where it stopped."""
        await self._find(name)
        await self._studies.resume(name)

    async def delete_job(self, name: str) -> None:
        """Stop a study if it runs and remove everything of it, its trials' jobs included.

        Raises:
            JobNotFoundError: No such study.
        """
        await self.cancel(name)
        _, study = await self._find(name)
        for trial in study.trials.values():
            for job in trial.names:
                if (handle := await self._job_of(name, job)) is not None:
                    await handle.delete()
        await self._studies.delete_job(name)
