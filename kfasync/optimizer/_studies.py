"""What is known of the studies of a home, and of their trials' jobs wherever those run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress

from kfasync.engine import JobHandle
from kfasync.errors import JobNotFoundError, ResultError
from kfasync.events import Event, JobSubmitted
from kfasync.optimizer._asked import lapse
from kfasync.optimizer._curves import Curves, curves_of
from kfasync.optimizer._order import STUDY_LABEL
from kfasync.optimizer._study import Study, TrialRecord
from kfasync.optimizer._views import OptimizationJob, Trial, study_of, trial_of
from kfasync.state import JobState, Reported
from kfasync.trainer import AsyncTrainerClient

__all__ = ["Studies"]


class Studies:
    """Reads studies.

    Args:
        home: The client of the place where the studies' own jobs are.
        place: The client of the place where their trials run.
    """

    def __init__(self, home: AsyncTrainerClient, place: AsyncTrainerClient) -> None:
        self._home = home
        self._place = place

    async def find(self, name: str) -> tuple[JobState, Study]:
        """A study's own job and its bookkeeping.

        Raises:
            JobNotFoundError: There is no study of this name.
        """
        state = await self.state(name)
        return state, await self.study(state)

    async def state(self, name: str) -> JobState:
        """A study's own job; errors as for `find`."""
        state = await self._home.engine.job(name)
        if not state.job_spec.is_study:
            raise JobNotFoundError(name, state.place)
        return await lapse(self._home.engine, state)

    async def all(self) -> list[OptimizationJob]:
        """Every study, the oldest first."""
        engine = self._home.engine
        return await self.views([await lapse(engine, job) for job in await engine.jobs() if job.job_spec.is_study])

    async def study(self, state: JobState) -> Study:
        """A study's bookkeeping up to now."""
        study = self.blank(state)
        for event in await self._home.engine.history(state.uid):
            study.apply(event)
        return study

    def blank(self, state: JobState) -> Study:
        """A study's bookkeeping before its first event."""
        return Study.described(state.spec["extra"]["study"])

    async def events(self, name: str) -> AsyncGenerator[Event, None]:
        """What happened to a study from its beginning on, and what happens."""
        async with aclosing(self._home.events(since=0, job=name)) as events:
            async for event in events:
                yield event

    async def views(self, states: Sequence[JobState], *, curves: bool = False) -> list[OptimizationJob]:
        """Studies for people to look at; with ``curves`` what their trials reported on their way."""
        jobs = {job.name: job for job in await self._place.list_jobs()}
        views = []
        for state in states:
            study = await self.study(state)
            reported = await self._curves(study) if curves else None
            views.append(study_of(state, study, jobs, await self._told(state), reported))
        return views

    async def _curves(self, study: Study) -> Mapping[str, Curves]:
        """What the trials of a study have reported, by the names of their jobs."""
        # The driver reads what a trial reports when it ends; meanwhile whoever asks does.
        await asyncio.gather(*(self._read(trial.name) for trial in study.running))
        reports = await self._place.engine.reports([trial.name for trial in study.trials.values()])
        metric = study.objectives[0].metric
        told = [
            Reported(study.trials[number].name, step, {metric: value})
            for number, points in study.reports.items()
            for step, value in points
        ]
        ranks = {objective.metric: objective.rank for objective in study.objectives}
        return await asyncio.to_thread(curves_of, [*reports, *told], ranks)

    async def _read(self, trial: str) -> None:
        with suppress(JobNotFoundError):  # It is not created yet, or its caller runs it.
            await self._place.engine.job_metrics(trial)

    async def _told(self, state: JobState) -> Mapping[str, str]:
        """What the driver of a complete study told at its end: reason and message."""
        if state.status.value != "Complete":
            return {}
        try:
            told: dict[str, str] = await (await self._home.attach(state.name)).result()
        except (ResultError, JobNotFoundError):
            return {}
        return told

    async def view(self, state: JobState, *, curves: bool = False) -> OptimizationJob:
        """One study for people to look at, as `views` gives it."""
        return (await self.views([state], curves=curves))[0]

    async def trial(self, study: str, record: TrialRecord) -> Trial:
        """One trial of a study for people to look at, with its job where there is one."""
        job = await self.job_of(study, record.name)
        return trial_of(record, None if job is None else await self._place.get_job(record.name))

    async def created(self, trial: str, cursor: int) -> None:
        """Wait until the job of a trial is there, which was decided on but not there yet at a cursor."""
        async with aclosing(self._place.events(since=cursor)) as events:
            async for event in events:
                if event.job == trial and isinstance(event, JobSubmitted):
                    return

    async def job_of(self, study: str, name: str) -> JobHandle | None:
        """The job of a trial, if it is there and the study's own."""
        try:
            handle = await self._place.attach(name)
            state = await handle.state()
        except JobNotFoundError:
            return None
        return handle if state.job_spec.labels.get(STUDY_LABEL) == study else None
