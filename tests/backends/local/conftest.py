"""A home of the tests' own, whose supervisor is gone when they are and whose journal replays, at every prefix."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.testing import chaos
from kfasync.testing.replay import verify_journals
from kfasync.trainer import AsyncTrainerClient


def end_supervisors(home: Path) -> None:
    """SIGTERM to every supervisor of a home, and wait for its end."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if b"kfasync.backends.local._daemon" not in (entry / "cmdline").read_bytes():
                continue
            environ = (entry / "environ").read_bytes().split(b"\0")
            if b"KFASYNC_HOME=" + os.fsencode(home) not in environ:
                continue
            pid = int(entry.name)
            fd = os.pidfd_open(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        with os.fdopen(fd):
            os.kill(pid, signal.SIGTERM)
            select.select([fd], [], [], 30)
    chaos.end_ranks(home)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("home")
    yield path
    end_supervisors(path)
    verify_journals(path)


@pytest.fixture
def home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home that the tests of one module share: a supervisor's start costs more than most of them."""
    monkeypatch.setenv("KFASYNC_HOME", str(shared_home))
    return shared_home


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home for one test, because it kills its supervisor or needs settings of its own."""
    path = tmp_path / "home"
    monkeypatch.setenv("KFASYNC_HOME", str(path))
    yield path
    end_supervisors(path)
    verify_journals(path)


@pytest.fixture
async def client(home: Path) -> AsyncIterator[AsyncTrainerClient]:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as opened:
        yield opened


async def supervisor_status(home: Path) -> dict[str, object]:
    link = Link(Home(home))
    try:
        return await link.request("status")
    finally:
        await link.aclose()
