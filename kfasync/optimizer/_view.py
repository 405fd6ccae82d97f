"""The studies of a home as a storage of Optuna's, to be read. Loaded with Optuna.

Each look opens the journal, reads what is new, and closes it: between two looks a reader holds nothing, within one only
what SQLite's readers hold, which keeps no writer waiting. No supervisor is asked for or started.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Container, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from kfasync.errors import UnsupportedError
from kfasync.events import Event, JobDeleted, JobSubmitted, MetricReported, TrialEnded, TrialReported, TrialStarted
from kfasync.jobs import JobSpec
from kfasync.optimizer._mirror import StudyMirror
from kfasync.optimizer._order import STUDY_LABEL
from kfasync.state._schema import NoJournalError, translate
from kfasync.state._store import Store

__all__ = ["StudiesView"]

_KINDS = (JobSubmitted, JobDeleted, TrialStarted, TrialReported, TrialEnded, MetricReported)
# Events read at a time. It bounds the memory, and for how long SQLite can't shorten its log.
_PAGE = 5000


class StudiesView(BaseStorage):
    """All studies of a home. It may be used by several threads.

    Args:
        path: The home's journal; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._start()

    def _start(self) -> None:
        """Begin with a journal of which nothing is known."""
        self._cursor, self._last = 0, ""
        self._studies: dict[int, StudyMirror] = {}
        self._by_uid: dict[str, StudyMirror] = {}
        self._by_name: dict[str, StudyMirror] = {}
        # The jobs of trials by uid, each with its study: a name alone may be somebody else's.
        self._jobs: dict[str, StudyMirror] = {}

    # ---------------------------------------------------------------- following the journal

    def _look(self) -> None:
        """Take in what has happened since the last look."""
        try:
            with translate(self._path), closing(Store(self._path, read_only=True)) as store:
                self._read(store)
        except NoJournalError:
            self._start()

    def _read(self, store: Store) -> None:
        if not self._is_known(store):
            self._start()
        while page := store.events(self._cursor, None, None, _PAGE, _KINDS):
            for event in page:
                self._take(event)
            self._cursor, self._last = page[-1].cursor, page[-1].uid
        for study in self._studies.values():
            study.renew()
            if study.state is None or not study.state.terminal:
                study.state = store.state(study.uid)

    def _is_known(self, store: Store) -> bool:
        """Whether this is the journal that was read before: a home may be removed and made again."""
        last = store.events(self._cursor - 1, None, None, 1)
        return not self._cursor or [(event.cursor, event.uid) for event in last] == [(self._cursor, self._last)]

    def _take(self, event: Event) -> None:
        if isinstance(event, JobSubmitted):
            self._submitted(event)
        elif isinstance(event, JobDeleted):
            self._jobs.pop(event.uid, None)
            if (gone := self._by_uid.pop(event.uid, None)) is not None:
                del self._studies[gone.id], self._by_name[gone.name]
        elif isinstance(event, MetricReported):
            if (study := self._jobs.get(event.uid)) is not None:
                study.hear(event)
        elif isinstance(event, TrialStarted | TrialReported | TrialEnded) and event.uid in self._by_uid:
            self._by_uid[event.uid].take(event)

    def _submitted(self, event: JobSubmitted) -> None:
        spec = JobSpec.from_dict(event.spec)
        if spec.is_study:
            study = self._by_uid[event.uid] = self._by_name[event.job] = StudyMirror(event)
            self._studies[study.id] = study
        elif (owner := self._by_name.get(spec.labels.get(STUDY_LABEL, ""))) is not None:
            self._jobs[event.uid] = owner

    def _study(self, study_id: int) -> StudyMirror:
        """A study as it is now."""
        self._look()
        if study_id not in self._studies:
            raise KeyError(f"No study with study_id {study_id} exists.")
        return self._studies[study_id]

    # ---------------------------------------------------------------- what Optuna reads

    def get_study_id_from_name(self, study_name: str) -> int:
        with self._lock:
            self._look()
            if study_name not in self._by_name:
                raise KeyError(f"No such study {study_name}.")
            return self._by_name[study_name].id

    def get_study_name_from_id(self, study_id: int) -> str:
        with self._lock:
            return self._study(study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        with self._lock:
            return self._study(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._lock:
            return self._study(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._lock:
            return self._study(study_id).system_attrs

    def get_all_studies(self) -> list[FrozenStudy]:
        with self._lock:
            self._look()
            return [study.frozen for study in self._studies.values()]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            self._look()
            for study in self._studies.values():
                for trial in study.trials:
                    if trial._trial_id == trial_id:
                        return trial
        raise KeyError(f"No trial with trial_id {trial_id} exists.")

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[OptunaState] | None = None
    ) -> list[FrozenTrial]:
        with self._lock:
            trials = [t for t in self._study(study_id).trials if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    # ---------------------------------------------------------------- what it refuses

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        _refuse()

    def delete_study(self, study_id: int) -> None:
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        _refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        _refuse()

    def set_trial_state_values(self, trial_id: int, state: OptunaState, values: Sequence[float] | None = None) -> bool:
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()


def _refuse() -> NoReturn:
    raise UnsupportedError(
        "kfasync's studies can only be read through Optuna: start, stop and delete them by OptimizerClient, or copy "
        "one with kfasync.optimizer.export_study into a storage of Optuna's own and change that"
    )
