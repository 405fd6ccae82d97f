"""A long study, asked and told by its caller through the journal: its speed, its resume, its size, its memory."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
from _measure import Figure, main, own_home, rival

if TYPE_CHECKING:
    from kfasync.optimizer._plan import StudyKeywords

CLAIM = "10,000 trials recorded, two at once: at least 500 trials/s; resumed within 2 s; memory flat"

_NAME = "long"


def _resident() -> float:
    return float(psutil.Process(os.getpid()).memory_info().rss / 1e6)


async def record(trials: int) -> list[float]:
    """Run the study; gives seconds, and megabytes of this process after a fifth of it and at its end."""
    from kfasync.optimizer import AsyncOptimizerClient
    from kfasync.trainer import LocalProcessBackendConfig

    early = 0.0
    # One trial more than are run: an unfinished study is there to be resumed.
    async with (
        AsyncOptimizerClient(LocalProcessBackendConfig()) as client,
        client.study(**_plan(trials + 1)) as study,
    ):

        async def slot() -> None:
            nonlocal early
            while (trial := await study.ask()) is not None and trial.number < trials:
                if trial.number == trials // 5:
                    early = _resident()
                await study.tell(trial, trial.parameters["x"] ** 2)

        begin = time.monotonic()
        await asyncio.gather(slot(), slot())
        return [time.monotonic() - begin, early, _resident()]


def _plan(trials: int) -> StudyKeywords:
    from kfasync.optimizer import Search, TrialConfig

    space = {"x": Search.uniform(-1, 1), "y": Search.loguniform(1e-4, 1)}
    return {"search_space": space, "trial_config": TrialConfig(trials, 2), "name": _NAME}


async def resume(trials: int) -> list[float]:
    """Seconds until a new process could ask that study again, its sampler fed with all trials."""
    from kfasync.optimizer import AsyncOptimizerClient
    from kfasync.trainer import LocalProcessBackendConfig

    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        begin = time.monotonic()
        async with client.study(**_plan(trials + 1)) as study:
            trial = await study.ask()
            assert trial is not None
            assert trial.number == trials
            return [time.monotonic() - begin]


def _part(part: str, trials: int) -> list[float]:
    """One of the two above, in a process of its own."""
    command = [sys.executable, __file__, part, str(trials)]
    numbers: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return numbers


def ours(trials: int) -> list[Figure]:
    with own_home() as home:
        seconds, early, late = _part("record", trials)
        (resumed,) = _part("resume", trials)
        size = sum(path.stat().st_size for path in home.glob("journal.sqlite3*")) / 1e6
    return [
        Figure(
            "kfasync, recorded", [trials / seconds], "trials/s", "each start and each end durable before it is used"
        ),
        Figure("kfasync, resumed", [resumed], "s", "a new process, sampler fed"),
        Figure("kfasync, journal", [size], "MB"),
        Figure("kfasync, memory a trial", [(late - early) * 1e3 / (trials - trials // 5)], "kB", "of the driver"),
        Figure("kfasync, memory at the end", [late], "MB"),
    ]


OPTUNA = """
import json, os, sys, time
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
trials, kind, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def open_():
    if kind == "sqlite":
        return optuna.storages.RDBStorage("sqlite:///study.db")
    from optuna.storages.journal import JournalFileBackend
    return optuna.storages.JournalStorage(JournalFileBackend("study.log"))
def objective(trial):
    x, _ = trial.suggest_float("x", -1, 1), trial.suggest_float("y", 1e-4, 1, log=True)
    return x ** 2
sampler = optuna.samplers.RandomSampler()
study = optuna.create_study(storage=open_(), sampler=sampler, study_name="long")
begin = time.monotonic()
study.optimize(objective, n_trials=trials, n_jobs=2)
numbers = {"recorded": trials / (time.monotonic() - begin)}
begin = time.monotonic()
optuna.load_study(storage=open_(), sampler=sampler, study_name="long").ask()
numbers["resumed"] = time.monotonic() - begin
numbers["size"] = sum(os.path.getsize(name) for name in os.listdir(".") if name.startswith("study.")) / 1e6
print(json.dumps([[numbers["recorded"]], [numbers["resumed"]], [numbers["size"]]][int(what)]))
"""

# Python's own SQLite as the journal uses it (WAL, no fsync a commit), one row for a start and one for an end.
SQLITE = """
import json, sqlite3, sys, time
trials = int(sys.argv[1])
store = sqlite3.connect("rows.sqlite3", isolation_level=None)
store.execute("PRAGMA journal_mode=WAL")
store.execute("PRAGMA synchronous=NORMAL")
store.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body TEXT)")
begin = time.monotonic()
for number in range(trials):
    for body in ("x" * 300, "y" * 300):
        store.execute("BEGIN IMMEDIATE")
        store.execute("INSERT INTO rows (body) VALUES (?)", (body,))
        store.execute("COMMIT")
print(json.dumps([trials / (time.monotonic() - begin)]))
"""


def limit(trials: int) -> Figure:
    with own_home() as home:
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", SQLITE, str(trials)]
        done = subprocess.run(command, cwd=home, check=True, capture_output=True, text=True)
    return Figure("limit: SQLite, two transactions a trial", json.loads(done.stdout), "trials/s")


def rivals(trials: int) -> list[Figure]:
    figures: list[Figure] = []
    for kind, few in (("sqlite", min(trials, 1000)), ("journal", min(trials, 3000))):
        for index, (what, unit) in enumerate((("recorded", "trials/s"), ("resumed", "s"), ("store", "MB"))):
            label = f"Optuna n_jobs=2, {kind}, {what}"
            args = (str(few), kind, str(index))
            figures += rival("KFASYNC_BENCH_RAY", label, OPTUNA, *args, unit=unit, note=f"{few} trials")
    return figures


def measure(args: argparse.Namespace) -> list[Figure]:
    figures = ours(args.trials)
    if args.rivals:
        figures += rivals(args.trials)
    return [*figures, limit(args.trials)]


if __name__ == "__main__":
    if sys.argv[1:2] in (["record"], ["resume"]):
        print(json.dumps(asyncio.run({"record": record, "resume": resume}[sys.argv[1]](int(sys.argv[2])))))
    else:
        main(CLAIM, measure, repeats=1, trials=(10_000, "trials of the study"))
