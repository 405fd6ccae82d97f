"""Fixtures that every test shares."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
import uvloop

from kfasync import portal
from kfasync.errors import BackendError
from kfasync.state import verify
from kfasync.testing import chaos

# A shell that starts us in the background has Ctrl-C ignored, here and in every process that a test starts and strikes.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is this machine's affair.
_PATIENT = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("kfasync", deadline=None, suppress_health_check=_PATIENT)
hypothesis.settings.load_profile("kfasync")

#: A directory with a file of this name holds journals that a test made false on purpose.
FALSIFIED = "falsified"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After all tests: no process, thread, descriptor or task of theirs, and every journal that they wrote replays."""
    # uvloop keeps a pipe for ever, from its first loop on.
    uvloop.run(asyncio.sleep(0))
    # jupyter_core keeps a thread with a loop for ever. A loop of ours that is not closed warns, an error here.
    with chaos.leaks(allow=("thread MainThread - runner", "anon_inode:[eventpoll]", "socket:[")):
        yield
        portal._close_current()
    base = tmp_path_factory.getbasetemp()
    assert not _processes_of(base)
    assert not _false_journals(base)


def _processes_of(base: Path) -> list[str]:
    """Processes that work in a home below a directory; a supervisor is nobody's child."""
    mark, found = os.fsencode(base), []
    for process in psutil.process_iter():
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if any(entry.startswith(b"KFASYNC_HOME=" + mark) for entry in environ.split(b"\0")):
            found.append(f"{process.pid} {process.cmdline()}")
    return found


def _false_journals(base: Path) -> list[str]:
    found = []
    for journal in base.rglob("journal.sqlite3"):
        if not (journal.parent / FALSIFIED).exists():
            try:
                verify(journal)
            except BackendError as error:
                found.append(str(error))
    return found


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A KFASYNC_HOME of the test's own."""
    path = tmp_path / "home"
    monkeypatch.setenv("KFASYNC_HOME", str(path))
    return path
