"""StudyHandle: one study, followed and controlled from asyncio code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING

from kfasync.events import JobCompleted, JobFailed, TrialEnded

if TYPE_CHECKING:
    from kfasync.optimizer._client import AsyncOptimizerClient
    from kfasync.optimizer._views import OptimizationJob, Result, Trial

__all__ = ["StudyHandle"]


class StudyHandle:
    """One study of one client, by its name.

    Example:
        >>> async with client.submit(template, search_space=space) as study:  # doctest: +SKIP
        ...     async for trial in study.finished():
        ...         print(trial.number, trial.parameters, trial.metrics, await study.best())
    """

    def __init__(self, client: AsyncOptimizerClient, name: str) -> None:
        self._client = client
        self._name = name

    def __repr__(self) -> str:
        return f"StudyHandle(name={self._name!r})"

    @property
    def name(self) -> str:
        """The study's name."""
        return self._name

    async def job(self) -> OptimizationJob:
        """The study as it is now, with its trials."""
        return await self._client.get_job(self._name)

    async def best(self) -> Result | None:
        """The best trial so far; None when none is complete yet."""
        best = await self._client.get_best_results(self._name)
        assert not isinstance(best, list)
        return best

    async def finished(self) -> AsyncGenerator[Trial, None]:
        """Every trial that ends, complete, failed or pruned, from the study's first one on; ends with the study.

        Raises:
            JobFailedError: The study failed.
            JobNotFoundError: It was deleted.
        """
        handle, known = await self._client._studies.attach(self._name), self._client._known
        study = known.blank(await known.state(self._name))
        async with aclosing(known.events(self._name)) as events:
            async for event in events:
                study.apply(event)
                if isinstance(event, TrialEnded):
                    yield await known.trial(self._name, study.trials[event.number])
                elif isinstance(event, JobCompleted | JobFailed):
                    break
        await handle.wait()

    async def wait(
        self, status: Collection[str] = frozenset({"Complete"}), timeout: float | None = None
    ) -> OptimizationJob:
        """Wait for one of some statuses, or the end; as `AsyncOptimizerClient.wait_for_job_status`."""
        return await self._client.wait_for_job_status(self._name, status, timeout)

    async def cancel(self) -> None:
        """Have the study stopped with its trials; it ends as Failed(Cancelled)."""
        await self._client.cancel(self._name)

    async def suspend(self) -> None:
        """Have the study stopped with its trials, to be resumed later."""
        await self._client.suspend(self._name)

    async def resume(self) -> None:
        """Have a suspended study go on."""
        await self._client.resume(self._name)

    async def delete(self) -> None:
        """Stop the study if it runs and remove everything of it, its trials' jobs included."""
        await self._client.delete_job(self._name)
