"""The one hierarchy of errors.

Every error also inherits the builtin that Kubeflow SDK code catches, so that an existing ``except`` clause keeps
working after the import root is changed::

    KfasyncError
    ├── InvalidSpecError (ValueError)              the call can't describe a job; the message says what to change
    │   └── UnsupportedError                       a valid call that this backend can't carry out
    ├── RuntimeNotFoundError (ValueError, RuntimeError)
    ├── JobNotFoundError (ValueError, RuntimeError)
    ├── JobExistsError (ValueError, RuntimeError)  the name is taken by a job with another spec
    ├── JobFailedError (RuntimeError)              the job ended as Failed and nobody asked for that
    ├── ResultError (RuntimeError)                 the job is Complete but its value can't be had
    ├── StudyHeldError (RuntimeError)              another process asks and tells this study
    ├── SupersededError (RuntimeError)             this process drives its study no more
    ├── WaitTimeoutError (TimeoutError)            the caller's deadline passed; the job goes on
    ├── BackendError (RuntimeError)                the supervisor, daemon or API server refused or broke
    │   ├── BackendUnavailableError                nothing answered; the message lists what was tried
    │   ├── BackendTimeoutError (TimeoutError)     it did not answer in time
    │   ├── IncompatibleVersionError               client, supervisor or journal are of different versions
    │   └── JournalError                           the journal can't be opened or written
    ├── TransitionError (RuntimeError)             an event that can't follow the job's history: a defect of ours
    ├── ClientClosedError (RuntimeError)           used after close
    ├── WrongLoopError (RuntimeError)              used on another event loop than the one it was opened on
    ├── PlotError (ValueError)                     a study has nothing that a figure could show; says why
    └── MissingExtraError (ImportError)            an optional dependency is not installed; names the extra
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = [
    "BackendError",
    "BackendTimeoutError",
    "BackendUnavailableError",
    "ClientClosedError",
    "IncompatibleVersionError",
    "InvalidSpecError",
    "JobExistsError",
    "JobFailedError",
    "JobNotFoundError",
    "JournalError",
    "KfasyncError",
    "MissingExtraError",
    "PlotError",
    "ResultError",
    "RuntimeNotFoundError",
    "StudyHeldError",
    "SupersededError",
    "TransitionError",
    "UnsupportedError",
    "WaitTimeoutError",
    "WrongLoopError",
]


class KfasyncError(Exception):
    """The root of every error that kfasync raises on purpose."""


class InvalidSpecError(KfasyncError, ValueError):
    """The call can't describe a job. Raised at submit, before anything is created."""


class UnsupportedError(InvalidSpecError):
    """The call is valid, but the chosen backend can't carry it out."""


class RuntimeNotFoundError(KfasyncError, ValueError, RuntimeError):
    """No training runtime has this name.

    Args:
        name: The name that was asked for.
        known: The names that exist, for the message.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        listed = ", ".join(self.known) or "none"
        super().__init__(f"no runtime is named {name!r}; known runtimes: {listed}")


class JobNotFoundError(KfasyncError, ValueError, RuntimeError):
    """No job has this name in this place (it never existed, or it was deleted)."""

    def __init__(self, name: str, place: str = "") -> None:
        self.name = name
        self.place = place
        where = f" in {place}" if place else ""
        super().__init__(f"no job is named {name!r}{where}")


class JobExistsError(KfasyncError, ValueError, RuntimeError):
    """The name belongs to a job with another spec; names are unique in a place until the job is deleted."""

    def __init__(self, name: str, place: str = "") -> None:
        self.name = name
        self.place = place
        where = f" in {place}" if place else ""
        super().__init__(
            f"a job named {name!r} with another spec exists{where}: choose another name, or delete that job first"
        )


class JobFailedError(KfasyncError, RuntimeError):
    """The job failed and the caller did not ask to wait for that.

    Attributes:
        name: The job.
        reason: A typed reason such as ``Error``, ``OOMKilled`` or ``Cancelled``.
        exit_code: Exit code of the rank that failed first (negative: the signal that ended it), if known.
        node: Node of the rank that failed first.
        rank: Global rank that failed first.
        exception: ``Type: message`` of its exception, where there was one.
        traceback: The rank's own traceback, as text.
        last_lines: The last lines that rank printed.
    """

    def __init__(
        self,
        name: str,
        *,
        reason: str = "Error",
        message: str = "",
        exit_code: int | None = None,
        node: int | None = None,
        rank: int | None = None,
        exception: str = "",
        traceback: str = "",
        last_lines: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.reason = reason
        self.message = message
        self.exit_code = exit_code
        self.node = node
        self.rank = rank
        self.exception = exception
        self.traceback = traceback
        self.last_lines = tuple(last_lines)
        super().__init__(self._describe())

    def _describe(self) -> str:
        text = f"job {self.name!r} failed: {self.reason}"
        if self.rank is not None:
            text += f" (rank {self.rank} on node {self.node})"
        if self.message:
            text += f": {self.message}"
        if self.traceback:
            text += "\n" + self.traceback.rstrip("\n")
        elif self.last_lines:
            text += "\nlast lines:\n" + "\n".join(f"  {line}" for line in self.last_lines)
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_job_failed, (self.name, {k: v for k, v in vars(self).items() if k != "name"})


def _rebuild_job_failed(name: str, fields: dict[str, object]) -> JobFailedError:
    return JobFailedError(name, **fields)  # type: ignore[arg-type]


class ResultError(KfasyncError, RuntimeError):
    """The job is Complete, but the value that its function returned can't be had."""


class StudyHeldError(KfasyncError, RuntimeError):
    """Another process asks and tells this study; one at a time can.

    Args:
        name: The study.
        pid: The process that has it.
    """

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        super().__init__(
            f"the study {name!r} is driven by process {pid}: end that one, or pass wait=True to go on behind it"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.pid)


class SupersededError(KfasyncError, RuntimeError):
    """This process drives its study no more: the study was stopped or deleted, or another process has taken it over."""


class WaitTimeoutError(KfasyncError, TimeoutError):
    """The caller's deadline passed before the job reached a wanted status. The job goes on."""


class BackendError(KfasyncError, RuntimeError):
    """The place where jobs run refused a request, or broke while serving it."""


class BackendUnavailableError(BackendError):
    """Nothing answered. The message lists what was tried and how to start it."""


class BackendTimeoutError(BackendError, TimeoutError):
    """The place did not answer in time."""


class IncompatibleVersionError(BackendError):
    """Two versions of kfasync met that can't work together. The message says which one to change."""


class JournalError(BackendError):
    """The journal can't be opened or written."""


class TransitionError(KfasyncError, RuntimeError):
    """An event that can't follow the job's history; it carries that history."""


class ClientClosedError(KfasyncError, RuntimeError):
    """The client was closed."""


class WrongLoopError(KfasyncError, RuntimeError):
    """An async client belongs to the event loop that first used it."""


class PlotError(KfasyncError, ValueError):
    """A study has nothing, or nothing yet, that the figure could show. The message says what it lacks."""


class MissingExtraError(KfasyncError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: What was asked for.
        extra: The extra of ``kfasync`` that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(f"{feature} needs an optional dependency: pip install 'kfasync[{extra}]'")
