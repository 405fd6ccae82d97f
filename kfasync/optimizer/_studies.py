"""What is known of the studies of a home, and of their trials' jobs wherever those run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing

from kfasync.engine import JobHandle
from kfasync.errors import JobNotFoundError, ResultError
from kfasync.events import JobSubmitted
from kfasync.optimizer._asked import lapse
from kfasync.optimizer._order import STUDY_LABEL
from kfasync.optimizer._study import Study
from kfasync.optimizer._views import OptimizationJob, Trial, study_of, trial_of
from kfasync.state import JobState
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
        study = Study.described(state.spec["extra"]["study"])
        for event in await self._home.engine.history(state.uid):
            study.apply(event)
        return study

    async def views(self, states: Sequence[JobState]) -> list[OptimizationJob]:
        """Studies for people to look at."""
        jobs = {job.name: job for job in await self._place.list_jobs()}
        return [study_of(state, await self.study(state), jobs, await self._told(state)) for state in states]

    async def _told(self, state: JobState) -> Mapping[str, str]:
        """What the driver of a complete study told at its end: reason and message."""
        if state.status.value != "Complete":
            return {}
        try:
            told: dict[str, str] = await (await self._home.attach(state.name)).result()
        except (ResultError, JobNotFoundError):
            return {}
        return told

    async def view(self, state: JobState) -> OptimizationJob:
        """One study for people to look at."""
        return (await self.views([state]))[0]

    async def trial(self, name: str, number: int) -> Trial:
        """One trial of a study, with its job where there is one."""
        _, study = await self.find(name)
        record = study.trials[number]
        job = await self.job_of(name, record.name)
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
