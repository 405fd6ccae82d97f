"""Many jobs while ranks, zygotes, the supervisor and clients are killed at random; afterwards the journal must be true.

Each job writes a word to a file of its own when it begins and one when it ends. What the journal says is then compared
with these files and with who was killed.
"""

from __future__ import annotations

import asyncio
import collections
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.state import JobState, Status, verify
from kfasync.testing import chaos
from kfasync.trainer import AsyncTrainerClient

# A client that waits for everything, to be killed while it does.
WAITER = """
from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.trainer import TrainerClient
for _ in TrainerClient(LocalProcessBackendConfig()).events(since=0):
    pass
"""


def record(path: str, work: int, seconds: float = 0.0) -> None:
    """The job: says that it began, computes and waits, says that it ended."""
    import threading

    with open(path, "a", buffering=1) as file:
        file.write("began\n")
        sum(range(work))
        threading.Event().wait(seconds)
        file.write("ended\n")


@dataclass
class Report:
    """What a soak found."""

    jobs: int
    killed: dict[str, int]
    statuses: dict[str, int]
    events: int

    def __str__(self) -> str:
        return f"{self.jobs} jobs, killed {self.killed}, ended as {self.statuses}, {self.events} events replayed"


def start_waiter() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WAITER], stderr=subprocess.DEVNULL)


async def soak(directory: Path, jobs: int, seed: int) -> Report:
    """Run it; KFASYNC_HOME is ``directory / "home"``.

    Raises:
        AssertionError: The journal and the truth differ.
    """
    home = directory / "home"
    told = directory / "told"
    told.mkdir()
    killed: collections.Counter[str] = collections.Counter()
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client, asyncio.TaskGroup() as group:
        await (await client.submit(train_func=record, func_args={"path": str(directory / "warm"), "work": 1})).wait()
        waiter = start_waiter()
        handles: list[str] = []

        async def victims() -> list[chaos.Identity]:
            nonlocal waiter
            if waiter.poll() is not None:
                waiter = start_waiter()
            # One kind a time, so that the rare supervisor is struck as often as the many ranks.
            kind = ("rank", "zygote", "supervisor", "client")[sum(killed.values()) % 4]
            found: list[chaos.Identity] = []
            if kind == "rank":
                for job in await client.engine.jobs():
                    found += chaos.ranks(job) if job.status is Status.RUNNING else []
            elif kind == "zygote":
                found = await chaos.zygotes(home)
            elif kind == "supervisor":
                serving = await chaos.supervisor(home)
                found = [] if serving is None else [serving]
            else:
                found = [chaos.identify(waiter.pid)]
            killed[kind if found else f"no {kind}"] += 1
            return found

        killer = chaos.Killer(victims, seed=seed, probability=0.02)
        strikes = group.create_task(killer.run(client.events()))
        for number in range(jobs):
            handle = await client.submit(
                train_func=record,
                func_args={
                    "path": str(told / str(number)),
                    "work": 1000 * (number % 50),
                    # Some last long enough to be met at work.
                    "seconds": 2.0 if number % 5 == 0 else 0.0,
                },
            )
            handles.append(handle.name)
        states = [await (await client.attach(name)).wait({"Complete", "Failed"}) for name in handles]
        strikes.cancel()
        waiter.kill()
        waiter.wait()
    dead = {(victim.pid, victim.start) for victim in killer.killed}
    for number, state in enumerate(states):
        check(state, told / str(number), dead)
    statuses = collections.Counter(f"{s.status.value} {s.reason}".strip() for s in states)
    return Report(jobs, dict(killed), dict(statuses), verify(home / "journal.sqlite3"))


def check(state: JobState, told: Path, dead: set[tuple[int, int]]) -> None:
    """Compare one job's record with what it did."""
    words = told.read_text().split() if told.exists() else []
    if state.status is Status.COMPLETE:
        assert words == ["began", "ended"], (state.name, words)
        return
    rank = state.ranks[0] if state.ranks else None
    struck = rank is not None and (rank.pid, rank.start_time) in dead
    # A job fails for a kill of its own rank, or because nobody can know how it ended, or before it ever began.
    assert struck or state.reason == "Lost" or words == [], (state.name, state.reason, state.message, words)
    assert state.reason in ("Error", "Lost"), (state.name, state.reason, state.message, words)
    assert words.count("began") <= 1, (state.name, words)
