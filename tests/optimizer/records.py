"""Studies that only a journal knows, for tests of who reads it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from kfasync.events import (
    Event,
    JobDeleted,
    JobStarted,
    JobSubmitted,
    MetricReported,
    TrialEnded,
    TrialReported,
    TrialStarted,
)
from kfasync.jobs import JobSpec
from kfasync.optimizer._order import STUDY_LABEL
from kfasync.optimizer._plan import StudyPlan
from kfasync.state._store import Store
from tests.state.happenings import event

NOTHING: dict[str, Any] = {
    "objectives": None, "algorithm": None, "config": None, "stopping": None, "rules": None, "enqueued": (),
}  # fmt: skip


class Record:
    """A home's journal with one study in it, to which a test adds what happens."""

    def __init__(self, home: Path, space: dict[str, Any], *, name: str = "study", **plan: Any) -> None:
        self._path, self._name = home / "journal.sqlite3", name
        told = StudyPlan.checked(space, **NOTHING | plan).describe()
        self._submitted(name, JobSpec(name=name, entry="study", extra={"study": told}))

    def write(self, *events: Event) -> None:
        with closing(Store(self._path)) as store, store.writing():
            assert None not in store.append(events)

    def _submitted(self, job: str, spec: JobSpec) -> None:
        self.write(event(JobSubmitted, job, spec=spec.to_dict(), digest=spec.digest), event(JobStarted, job))

    def tell(self, kind: type[Event], number: int, **fields: Any) -> None:
        self.write(event(kind, self._name, number=number, **fields))

    def start(self, number: int, retry: int = 0, **parameters: Any) -> None:
        job = self.job(number, retry)
        self.tell(TrialStarted, number, trial=job, parameters=parameters, retry=retry, time=100.0 + retry)
        self._submitted(job, JobSpec(name=job, labels={STUDY_LABEL: self._name}))

    def job(self, number: int, retry: int = 0) -> str:
        return f"{self._name}-{number}" + (f"-r{retry}" if retry else "")

    def report(self, job: str, *values: float, metric: str = "loss", first: int = 0) -> None:
        for step, value in enumerate(values, first):
            self.write(event(MetricReported, job, values={metric: value}, step=step, position=step, source="report"))

    def end(self, number: int, outcome: str = "complete", reason: str = "", **metrics: float) -> None:
        told = {name: (value, value, value) for name, value in metrics.items()}
        self.tell(TrialEnded, number, outcome=outcome, metrics=told, reason=reason, time=200.0)

    def reported(self, number: int, step: float, value: float, position: int) -> None:
        self.tell(TrialReported, number, step=step, value=value, position=position)

    def stranger(self, job: str) -> None:
        """A job of nobody's study."""
        self._submitted(job, JobSpec(name=job))

    def delete(self) -> None:
        self.write(event(JobDeleted, self._name))
