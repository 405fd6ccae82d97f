"""The doors to Optuna's own tools: its storage interface over our journal, and copies of studies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kfasync import settings
from kfasync.errors import JobNotFoundError, MissingExtraError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

__all__ = ["export_study", "optuna_storage"]


def optuna_storage(home: str | os.PathLike[str] | None = None) -> BaseStorage:
    """The studies of a home as a storage that Optuna, its plots and optuna-dashboard read.

    Every look sees what has happened until then, in running studies too; nobody is held up by it. Parameters have
    their natural values, trials the name of their job, the reason of a failure and their other metrics as user
    attributes. It is never written: what would write raises UnsupportedError.

    Args:
        home: The directory; by default KFASYNC_HOME's.

    Raises:
        MissingExtraError: Optuna is not installed.
        JournalError: When it is read: the home's journal can't be.

    Example:
        >>> study = optuna.load_study(study_name="my-study", storage=optuna_storage())  # doctest: +SKIP
        >>> optuna.visualization.plot_param_importances(study).show()  # doctest: +SKIP

        The dashboard, on http://127.0.0.1:8080 until it is interrupted (pip install optuna-dashboard):

        >>> optuna_dashboard.run_server(optuna_storage(), host="127.0.0.1")  # doctest: +SKIP
    """
    try:
        from kfasync.optimizer._view import StudiesView
    except ModuleNotFoundError as error:
        raise MissingExtraError("a storage of Optuna's", "optimizer") from error
    root = settings.load().home if home is None else Path(home).expanduser().absolute()
    return StudiesView(root / "journal.sqlite3")


def export_study(
    name: str, storage: str | BaseStorage, *, home: str | os.PathLike[str] | None = None, to: str | None = None
) -> None:
    """Copy a study, as it is now, into a storage of Optuna's own.

    Args:
        name: The study.
        storage: The storage or its URL, such as ``sqlite:///studies.db``.
        home: The directory that has the study; by default KFASYNC_HOME's.
        to: The copy's name; by default the study's.

    Raises:
        MissingExtraError: Optuna is not installed.
        JobNotFoundError: No such study.
        optuna.exceptions.DuplicatedStudyError: The storage has a study of that name.

    Example:
        >>> export_study("my-study", "sqlite:///studies.db")  # doctest: +SKIP
    """
    view = optuna_storage(home)
    import optuna

    if name not in {study.study_name for study in view.get_all_studies()}:
        raise JobNotFoundError(name, str(home or settings.load().home))
    optuna.copy_study(from_study_name=name, from_storage=view, to_storage=storage, to_study_name=to)
