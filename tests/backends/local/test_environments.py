"""Jobs with `packages_to_install`, from the call to the event, with wheels that lie beside the test."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from kfasync.errors import JobFailedError
from kfasync.events import Event, JobPending
from kfasync.trainer import AsyncTrainerClient
from tests.backends.local.test_packages import wheel

pytestmark = pytest.mark.anyio


def version_of(name: str) -> tuple[str, str]:
    import importlib
    import sys

    return importlib.import_module(name).version, sys.prefix


def prefix() -> str:
    import sys

    return sys.prefix


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that the installers know."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    # Variables, because they outrank every configuration file of the machine.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


async def history(client: AsyncTrainerClient, name: str) -> list[Event]:
    end = (await (await client.attach(name)).state()).cursor
    found = []
    async with aclosing(client.events(since=0, job=name)) as events:
        async for event in events:
            found.append(event)
            if event.cursor >= end:
                break
    return found


def installing(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, JobPending) and event.reason == "Installing"]


@pytest.mark.slow
async def test_ten_jobs_that_ask_at_once_share_one_environment_and_tell_its_progress(
    client: AsyncTrainerClient, home: Path, offline: Path
) -> None:
    wheel(offline, "shared_by_ten")
    submits = [
        client.submit(train_func=version_of, func_args={"name": "shared_by_ten"}, packages_to_install=["shared-by-ten"])
        for _ in range(10)
    ]
    handles = await asyncio.gather(*submits)
    results = await asyncio.gather(*(handle.result() for handle in handles))
    assert {version for version, _ in results} == {"1.0"}
    (where,) = {where for _, where in results}
    assert [str(path) for path in (home / "environments").iterdir()] == [where]
    for handle in handles:
        told = installing(await history(client, handle.name))
        assert told[0] == "shared-by-ten"
        assert any("shared" in line for line in told[1:])
    built = (Path(where) / "pyvenv.cfg").stat().st_ino
    later = await client.submit(
        train_func=version_of, func_args={"name": "shared_by_ten"}, packages_to_install=["shared_by_ten"]
    )
    assert await later.result() == ("1.0", where)
    assert (Path(where) / "pyvenv.cfg").stat().st_ino == built
    # Nothing was installed, so nothing is told.
    assert installing(await history(client, later.name)) == []


async def test_a_failed_install_fails_the_job_with_the_installers_own_words(
    client: AsyncTrainerClient, offline: Path
) -> None:
    handle = await client.submit(train_func=prefix, packages_to_install=["nowhere-to-be-found"])
    with pytest.raises(JobFailedError, match="nowhere-to-be-found") as caught:
        await handle.wait(timeout=60)
    assert (caught.value.reason, caught.value.rank) == ("InstallFailed", None)


async def test_a_set_that_the_interpreter_satisfies_starts_at_once(client: AsyncTrainerClient, offline: Path) -> None:
    handle = await client.submit(train_func=prefix, packages_to_install=["pytest", "packaging>=1"])
    assert await handle.result() == sys.prefix
    assert installing(await history(client, handle.name)) == []
