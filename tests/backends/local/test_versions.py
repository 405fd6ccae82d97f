"""Clients and supervisors of different versions, and two clients that start a supervisor at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from kfasync import __version__
from kfasync.backends.local import LocalProcessBackendConfig, _process
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.backends.local._wire import PROTOCOL
from kfasync.errors import BackendUnavailableError, IncompatibleVersionError
from kfasync.trainer import AsyncTrainerClient
from tests.backends.local.conftest import end_supervisors, supervisor_status

pytestmark = pytest.mark.anyio

# The daemon's own program, but for the version of the protocol that it speaks.
PROGRAM = """
import sys
from kfasync.backends.local import _wire
_wire.PROTOCOL = int(sys.argv[1])
from kfasync.backends.local._daemon import main
main()
"""


def start_supervisor(home: Path, protocol: int) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as told:
        command = [sys.executable, "-c", PROGRAM, str(protocol), str(writer)]
        process = subprocess.Popen(command, env={**os.environ, "KFASYNC_HOME": str(home)}, pass_fds=[writer])
        os.close(writer)
        assert told.readline() == b"ready\n"
        process.wait()


def wait_for_a_word() -> int:
    import os

    os.mkfifo("fifo")
    print("ready")
    with open("fifo") as fifo:
        fifo.read()
    return os.getpid()


async def test_a_newer_client_takes_over_and_the_running_job_survives(own_home: Path) -> None:
    start_supervisor(own_home, PROTOCOL)
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        handle = await client.submit(train_func=wait_for_a_word)
        async with aclosing(handle.logs(follow=True)) as lines:
            assert (await anext(lines)).text == "ready"
        state = await handle.wait({"Running"}, timeout=60)
        # The same supervisor, as an upgrade leaves it: older than whoever comes next.
        program = "import sys; from kfasync.backends.local import _wire; _wire.PROTOCOL += 1\n" + UPGRADE
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)
        assert _process.start_time(state.ranks[0].pid or 0) == state.ranks[0].start_time
        (own_home / "jobs" / handle.uid / "node-0" / "fifo").write_text("go")
        with pytest.raises(IncompatibleVersionError, match="upgrade"):
            await supervisor_status(own_home)
        end = await AsyncUpgraded.wait(own_home, handle.name)
        assert end == f"Complete {state.ranks[0].pid}"


UPGRADE = """
import asyncio
from kfasync import settings
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link

async def main():
    from kfasync.backends.local import _link
    # The daemon that this client starts is of its version too.
    _link._PROGRAM = (
        "import sys; from kfasync.backends.local import _wire; _wire.PROTOCOL += 1; sys.path.append(sys.argv[1]); "
        "from kfasync.backends.local._daemon import main; main()"
    )
    link = Link(Home(settings.load().home))
    print((await link.request("status"))["jobs"])
    await link.aclose()

asyncio.run(main())
"""


class AsyncUpgraded:
    """A client of the newer version, in a process of its own."""

    @staticmethod
    async def wait(home: Path, name: str) -> str:
        program = (
            "import sys, asyncio; from kfasync.backends.local import _wire; _wire.PROTOCOL += 1\n"
            "from kfasync.trainer import TrainerClient\n"
            "from kfasync.backends.local import LocalProcessBackendConfig\n"
            "client = TrainerClient(LocalProcessBackendConfig())\n"
            "job = client.wait_for_job_status(sys.argv[1], timeout=60)\n"
            "print(job.status, client.attach(sys.argv[1]).result())\n"
        )
        command = [sys.executable, "-c", program, name]
        done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
        return done.stdout.strip()


async def test_an_older_client_is_told_to_upgrade_and_harms_nothing(own_home: Path) -> None:
    start_supervisor(own_home, PROTOCOL + 1)
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        with pytest.raises(IncompatibleVersionError) as caught:
            await client.submit(train_func=wait_for_a_word)
        assert "upgrade kfasync here" in str(caught.value)
        assert __version__ in str(caught.value)
        assert await client.list_jobs() == []
    assert not any((own_home / "jobs").iterdir())


async def test_clients_that_start_at_once_share_one_supervisor(own_home: Path) -> None:
    statuses = await asyncio.gather(*(supervisor_status(own_home) for _ in range(4)))
    assert len({status["pid"] for status in statuses}) == 1


async def test_a_supervisor_that_leaves_is_replaced_for_the_next_client(own_home: Path) -> None:
    from kfasync.backends.local._layout import Home
    from kfasync.backends.local._link import Link

    link = Link(Home(own_home))
    first = (await link.request("status"))["pid"]
    await link.request("handover")
    await link.aclose()
    assert (await supervisor_status(own_home))["pid"] != first


async def test_a_journal_of_a_newer_version_says_what_to_do(own_home: Path) -> None:
    await supervisor_status(own_home)
    end_supervisors(own_home)
    with contextlib.closing(sqlite3.connect(own_home / "journal.sqlite3")) as journal:
        journal.execute("PRAGMA user_version = 999")
    with pytest.raises(BackendUnavailableError, match="newer"):
        await supervisor_status(own_home)
    (own_home / "journal.sqlite3").unlink()  # Nobody here can replay it.


async def test_a_supervisor_that_takes_connections_and_says_nothing_is_an_error(own_home: Path) -> None:
    home = Home(own_home)
    home.create()
    taken: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda reader, writer: taken.append(writer), home.socket)
    link = Link(home, patience=0.2)
    try:
        with pytest.raises(BackendUnavailableError, match="takes connections but does not answer"):
            await link.request("status")
    finally:
        await link.aclose()
        server.close()
        for writer in taken:
            writer.close()
            await writer.wait_closed()
