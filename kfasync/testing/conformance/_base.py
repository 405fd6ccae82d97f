"""What the suite's tests share: the fixtures, the declaration of what a place can't do, and a few ways to wait."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Final, ParamSpec, TypeVar

import pytest

from kfasync.testing.replay import replaying
from kfasync.trainer import AsyncTrainerClient

if TYPE_CHECKING:
    from kfasync.backends.base import BackendConfig
    from kfasync.engine import JobHandle
    from kfasync.events import Event

__all__ = ["CAPABILITIES", "ConformanceBase", "guarantee"]

#: What a place may lack. A class that lacks one says why in `ConformanceBase.missing`.
CAPABILITIES: Final[Mapping[str, str]] = {
    "execution": "functions are really run",
    "processes": "ranks and what they start are processes that this machine can see",
    "other-clients": "a client in another process sees the same place",
    "memory-limits": "the memory that was asked for is enforced",
    "unstartable": "a job can be submitted that will not start",
    "suspend": "jobs can be suspended and resumed",
    "files": "the working directory can be read",
    "checkpoints": "a job has a checkpoint directory and can start with a copy of another one's",
}

_P = ParamSpec("_P")
_Self = TypeVar("_Self", bound="ConformanceBase")
_Test = Callable[Concatenate[_Self, _P], Coroutine[Any, Any, None]]


def guarantee(number: int, *, needs: tuple[str, ...] = ()) -> Callable[[_Test[_Self, _P]], _Test[_Self, _P]]:
    """Mark a test of the suite: which guarantee of DESIGN.md it tests and which capabilities it needs.

    The test fails when it takes longer than the class's ``patience``: a wait that never returns is a failure like any
    other.

    Args:
        number: 1 to 10.
        needs: Names of `CAPABILITIES`.
    """
    unknown = set(needs) - set(CAPABILITIES)
    assert not unknown, f"unknown capabilities: {unknown}"

    def mark(test: _Test[_Self, _P]) -> _Test[_Self, _P]:
        @functools.wraps(test)
        async def patiently(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
            async with asyncio.timeout(self.patience):
                await test(self, *args, **kwargs)

        vars(patiently).update(__kfasync_guarantee__=number, __kfasync_needs__=needs)
        return patiently

    return mark


class ConformanceBase:
    """Fixtures and helpers of the suite.

    Attributes:
        missing: Capabilities that the place lacks, each with the reason that the skipped tests show.
        patience: Seconds after which a test has failed.
    """

    missing: ClassVar[Mapping[str, str]] = {}
    patience: ClassVar[float] = 60.0

    def config(self) -> BackendConfig:
        """What a client of the place is made with. All clients of one test must see the same jobs."""
        raise NotImplementedError(f"{type(self).__name__} must define config()")

    def unstartable(self) -> Mapping[str, Any]:
        """Arguments of ``submit`` for a job that the place will not start; with the capability of this name."""
        raise NotImplementedError(f"{type(self).__name__} must define unstartable()")

    def new_client(self) -> AsyncTrainerClient:
        """A client of its own on the place."""
        return AsyncTrainerClient(self.config())

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """KFASYNC_HOME of the test. A class may override it, for instance to share one among its tests."""
        path = tmp_path / "home"
        monkeypatch.setenv("KFASYNC_HOME", str(path))
        return path

    @pytest.fixture(autouse=True)
    def _skip_for_want(self, request: pytest.FixtureRequest) -> None:
        unknown = set(self.missing) - set(CAPABILITIES)
        assert not unknown, f"unknown capabilities in {type(self).__name__}.missing: {unknown}"
        for need in getattr(request.function, "__kfasync_needs__", ()):
            if need in self.missing:
                pytest.skip(f"no {need}: {self.missing[need]}")

    @pytest.fixture(autouse=True)
    def _replayed(self, home: Path) -> Iterator[None]:
        """Every journal of the test replays, at every prefix, to what was recorded."""
        with replaying(home):
            yield

    @pytest.fixture
    async def client(self, home: Path) -> AsyncIterator[AsyncTrainerClient]:
        """A client, closed after the test."""
        async with self.new_client() as client:
            yield client


async def line(handle: JobHandle, text: str, step: str | None = "node-0") -> None:
    """Follow a job's output until it has printed a line."""
    seen = []
    async with aclosing(handle.logs(step, follow=True)) as lines:
        async for found in lines:
            seen.append(found.text)
            if found.text == text:
                return
    raise AssertionError(f"the job never printed {text!r}, but {seen}")


async def texts(handle: JobHandle, step: str | None = "node-0", **query: Any) -> list[str]:
    """The lines that a log query gives."""
    return [line.text async for line in handle.logs(step, **query)]


async def history(client: AsyncTrainerClient, handle: JobHandle) -> list[Event]:
    """Every recorded event of a job so far."""
    end = (await handle.state()).cursor
    events: list[Event] = []
    async with aclosing(client.events(since=0, job=handle.name)) as stream:
        async for event in stream:
            events.append(event)
            if event.cursor >= end:
                break
    return events
