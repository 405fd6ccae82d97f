"""A study while ranks of its trials, zygotes, its driver, the supervisor and clients are killed at random.

Each trial writes a word to a file of its own when it begins and one when it ends, in every job that it gets. What the
journal says of the study is then compared with these files and with who was killed.
"""

from __future__ import annotations

import asyncio
import collections
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.events import TrialEnded, TrialStarted
from kfasync.optimizer import AsyncOptimizerClient, Search, TrainJobTemplate, TrialConfig
from kfasync.optimizer._study import TrialRecord
from kfasync.state import JobState, Status, verify
from kfasync.testing import chaos
from kfasync.trainer import CustomTrainer

NAME = "soak"
KINDS = ("rank", "driver", "client", "zygote", "supervisor")

# A client that follows the study, to be killed while it does.
WAITER = f"""
from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import OptimizerClient
OptimizerClient(LocalProcessBackendConfig()).wait_for_job_status({NAME!r}, callbacks=[lambda job: job.trials])
"""


def trial(folder: str, x: float) -> None:
    """Says that it began, waits for some tenths of a second, reports, and says that it ended."""
    import os
    import threading

    with open(os.path.join(folder, os.environ["KFASYNC_JOB_NAME"]), "a", buffering=1) as file:
        file.write("began\n")
        threading.Event().wait(0.5 * x * x)
        print(f"loss={x}", flush=True)
        file.write("ended\n")


@dataclass
class Report:
    """What a soak found."""

    trials: int
    killed: dict[str, int]
    outcomes: dict[str, int]
    retries: int
    drivers: int
    events: int

    def __str__(self) -> str:
        return (
            f"a study of {self.trials} trials, killed {self.killed}, ended as {self.outcomes}, {self.retries} tried "
            f"again, {self.drivers} drivers, {self.events} events replayed"
        )


class Fire:
    """Whom to strike: one kind of process after the other, so that the rare ones are met as often as the many.

    Args:
        client: The study's client.
        home: Its KFASYNC_HOME.
        most: Strikes in all; a study's driver is not started again for ever.
    """

    def __init__(self, client: AsyncOptimizerClient, home: Path, most: int) -> None:
        self.killed: collections.Counter[str] = collections.Counter()
        self._client = client
        self._home = home
        self._left = most
        self._waiter = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WAITER], stderr=subprocess.DEVNULL)

    async def victims(self) -> list[chaos.Identity]:
        if self._left <= 0:
            return []
        self._left -= 1
        kind = KINDS[self._left % len(KINDS)]
        found: list[chaos.Identity] = []
        if kind == "client":
            if self._waiter.poll() is not None:
                self._waiter = self._start()
            found = [chaos.identify(self._waiter.pid)]
        elif kind == "zygote":
            found = await chaos.zygotes(self._home)
        elif kind == "supervisor":
            serving = await chaos.supervisor(self._home)
            found = [] if serving is None else [serving]
        else:
            for job in await self._client._trials.engine.jobs():
                if job.status is Status.RUNNING and (job.name == NAME) == (kind == "driver"):
                    found += chaos.ranks(job)
        self.killed[kind if found else f"no {kind}"] += 1
        return found

    def close(self) -> None:
        self._waiter.kill()
        self._waiter.wait()


async def soak(directory: Path, trials: int, seed: int) -> Report:
    """Run it; KFASYNC_HOME is ``directory / "home"``.

    Raises:
        AssertionError: The journal and the truth differ.
    """
    home = directory / "home"
    told = directory / "told"
    told.mkdir()
    template = TrainJobTemplate(trainer=CustomTrainer(func=trial, func_args={"folder": str(told)}))
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client, asyncio.TaskGroup() as group:
        await client.optimize(
            template, search_space={"x": Search.uniform(0, 1)}, trial_config=TrialConfig(trials, 4), name=NAME
        )
        # Strikes at random, spread over the whole study: about six events a trial, twelve trials a strike.
        fire = Fire(client, home, most=min(trials // 6, 80))
        killer = chaos.Killer(fire.victims, seed=seed, probability=0.02)
        strikes = group.create_task(killer.run(client._trials.events()))
        try:
            await client.wait_for_job_status(NAME, timeout=None)
        finally:
            strikes.cancel()
            fire.close()
        engine = client._studies.engine
        state, study = await client._known.find(NAME)
        events = [each for each in await engine.history(state.uid) if isinstance(each, TrialStarted | TrialEnded)]
        jobs = {job.name: job for job in await engine.jobs() if job.name != NAME}
    check_study(events, trials)
    # No job that the study does not know of.
    assert jobs.keys() <= {name for record in study.trials.values() for name in record.names}
    dead = {(victim.pid, victim.start) for victim in killer.killed}
    for record in study.trials.values():
        check_trial(record, jobs, told, dead)
    outcomes = collections.Counter(f"{each.state} {each.reason}".strip() for each in study.trials.values())
    retries = sum(record.retries for record in study.trials.values())
    return Report(
        trials, dict(fire.killed), dict(outcomes), retries, state.attempt, verify(home / "journal.sqlite3")
    )  # fmt: skip


def check_study(events: list[TrialStarted | TrialEnded], trials: int) -> None:
    """Every trial is decided on once and ends once, and no more run at once than may."""
    numbers = list(range(trials))
    assert [each.number for each in events if isinstance(each, TrialStarted) and each.retry == 0] == numbers
    assert sorted(each.number for each in events if isinstance(each, TrialEnded)) == numbers
    running: set[int] = set()
    for event in events:
        running = running | {event.number} if isinstance(event, TrialStarted) else running - {event.number}
        assert len(running) <= 4


def check_trial(record: TrialRecord, jobs: Mapping[str, JobState], told: Path, dead: set[tuple[int, int]]) -> None:
    """Compare one trial's record with what its jobs did."""
    words = {name: _words(told / name) for name in record.names}
    *earlier, last = record.names
    assert all(said in ([], ["began"], ["began", "ended"]) for said in words.values()), words
    # It is tried again only where nobody can know what became of it.
    assert all(jobs[name].reason == "Lost" for name in earlier), record
    if record.state == "complete":
        assert words[last] == ["began", "ended"], (record, words)
        assert record.metrics["loss"].latest == record.parameters["x"]
        return
    # A trial fails for a kill of its own rank, or because its zygote was killed before it could begin.
    assert (record.state, record.reason) == ("failed", "Error"), record
    ranks = jobs[last].ranks
    struck = any((rank.pid, rank.start_time) in dead for rank in ranks)
    assert struck or words[last] == [], (record, words)


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
