"""Settings from the environment: each with its unit, default and motive.

Read with ``settings.load()`` at the point of use, so that a test or a notebook may change the environment at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kfasync.errors import InvalidSpecError

__all__ = ["Settings", "load"]


def _default_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("kfasync"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; the field's name in capitals behind ``KFASYNC_`` is the variable.

    Attributes:
        home: Directory of the journal, the supervisor's socket and the jobs' directories. Default: the platform's user
            state directory. One supervisor serves one home.
        backend: ``local``, ``container`` or ``kubernetes``; empty means the automatic choice.
        ranks_per_core: How many local ranks may run at once for each core (a count). 4: small trials overlap their
            start and their waits, and memory stays bounded.
        gpus: Comma-separated device names for the local place, or ``auto`` (ask the driver). Lets GPU paths be tested
            with simulated devices.
        grace: Seconds between SIGTERM and SIGKILL for a job that asked ``should_stop()``. 10 s, as dockerd does.
        log_limit: Bytes of output kept for each job; the oldest goes first. 1 GiB keeps a flood from filling a disk.
        idle_timeout: Seconds without jobs and clients after which the supervisor ends. 600 s: a notebook's pauses cost
            no restart; a laptop is not littered for ever.
        zygote_idle_timeout: Seconds after which an unused zygote ends; a torch-loaded one holds memory. 300 s.
        preload: Comma-separated modules that a zygote may import ahead. ``torch``: it is what makes a start slow.
        keep_jobs: How many ended jobs the local place keeps before the collector removes the oldest. 1000.
        keep_days: Days an ended job is kept. 30.
        keep_environments: How many package environments are kept, least recently used removed first. 20.
    """

    home: Path = field(default_factory=_default_home)
    backend: str = ""
    ranks_per_core: int = 4
    gpus: str = "auto"
    grace: float = 10.0
    log_limit: int = 1 << 30
    idle_timeout: float = 600.0
    zygote_idle_timeout: float = 300.0
    preload: str = "torch"
    keep_jobs: int = 1000
    keep_days: float = 30.0
    keep_environments: int = 20


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        environ: The environment to read; the process's own when omitted.

    Returns:
        The settings.

    Raises:
        InvalidSpecError: A variable can't be understood; the message names it.

    Example:
        >>> load({"KFASYNC_GRACE": "2.5"}).grace
        2.5
    """
    source = os.environ if environ is None else environ
    values: dict[str, object] = {}
    for name, annotation in Settings.__annotations__.items():
        text = source.get(f"KFASYNC_{name.upper()}")
        if text is None or text == "":
            continue
        try:
            values[name] = _PARSERS[annotation](text)
        except ValueError:
            raise InvalidSpecError(f"KFASYNC_{name.upper()}={text!r} is not a valid {annotation}") from None
    return Settings(**values)  # type: ignore[arg-type]


def _non_negative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _non_negative_float(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise ValueError
    return value


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


_PARSERS: dict[str, Callable[[str], object]] = {
    "Path": _absolute,
    "str": str,
    "int": _non_negative_int,
    "float": _non_negative_float,
}
