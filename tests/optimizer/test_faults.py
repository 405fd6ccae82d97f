"""What really went wrong for users of such systems, for studies: the faults that concern them, by number."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TextIO

import psutil
import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.events import JobStarted, TrialEnded, TrialStarted
from kfasync.optimizer import AsyncOptimizerClient, OptimizationJob, OptimizerClient, TrialConfig
from kfasync.testing import chaos
from kfasync.testing.faults import assert_faults_covered, covered_by
from kfasync.trainer import AsyncTrainerClient
from tests.backends.local.conftest import end_supervisors
from tests.optimizer.functions import pass_gate, square, tell_all
from tests.optimizer.stage import Stage
from tests.optimizer.studies import X, finished, first, template

pytestmark = pytest.mark.anyio

HERE = "tests/optimizer"

FAULTS = {
    6: covered_by(
        f"{HERE}/test_metrics.py::test_a_trial_without_a_value_has_failed_and_the_study_says_so",
        f"{HERE}/test_client.py::test_a_study_whose_trials_never_report_its_objective_fails_and_says_so",
        f"{HERE}/test_faults.py::test_a_last_value_behind_a_broken_log_stream_counts",
    ),
    7: covered_by(
        f"{HERE}/test_faults.py::test_a_study_whose_client_is_killed_goes_on_and_is_found_by_the_same_call",
        f"{HERE}/test_steps.py::test_a_driver_that_dies_at_any_step_leaves_a_study_that_ends_the_same",
        f"{HERE}/test_crashes.py::test_a_study_under_fire_has_each_outcome_once",
    ),
    13: covered_by(
        f"{HERE}/test_faults.py::test_four_thousand_trials_take_no_more_descriptors_and_threads_than_a_few",
        f"{HERE}/test_faults.py::test_the_processes_of_a_study_do_not_grow_with_its_trials",
    ),
    14: covered_by(f"{HERE}/test_faults.py::test_two_clients_and_a_reader_of_the_journal_never_meet_a_lock"),
    28: covered_by(
        f"{HERE}/test_faults.py::test_a_trial_that_stands_still_is_not_declared_dead_and_its_late_result_counts",
        f"{HERE}/test_faults.py::test_a_driver_that_stands_still_is_not_declared_dead",
    ),
    29: covered_by(
        f"{HERE}/test_control.py::test_a_callback_that_raises_ends_the_wait_and_not_the_study",
        f"{HERE}/test_faults.py::test_a_callback_that_hangs_does_not_delay_the_study",
    ),
    44: covered_by(
        f"{HERE}/test_faults.py::test_a_finished_study_is_not_run_again_when_everything_starts_anew",
        f"{HERE}/test_client.py::test_the_same_name_with_the_same_study_is_that_study",
    ),
    45: covered_by(f"{HERE}/test_faults.py::test_two_first_calls_at_once_on_a_fresh_home_make_one_study"),
}


def test_every_fault_of_studies_has_a_test(pytestconfig: pytest.Config) -> None:
    assert_faults_covered("studies", FAULTS, root=pytestconfig.rootpath, among=FAULTS)


# -------------------------------------------------------------------- 6: values


@pytest.mark.parametrize("after", [1, 2])
async def test_a_last_value_behind_a_broken_log_stream_counts(tmp_path: Path, after: int) -> None:
    stage = Stage(tmp_path, trials=1, parallel=1)
    # A trial reports one value, and prints another one just before its end.
    stage.world.inject.cut_logs(after)
    await stage.submit()
    await stage.drive(1)
    (trial,) = (await stage.study()).trials.values()
    assert trial.metrics["loss"].latest == trial.parameters["x"]


# -------------------------------------------------------------------- 7, 45: clients

# A script that starts the study, says so, and does what it is told to then.
SCRIPT = """
import sys
from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import OptimizerClient, TrialConfig
from tests.optimizer.functions import tell_all
from tests.optimizer.studies import X, template
client = OptimizerClient(LocalProcessBackendConfig())
study = template(tell_all, func_args={"folder": sys.argv[1]})
print(client.optimize(study, search_space=X, trial_config=TrialConfig(20, 2), name="sweep"), flush=True)
if "wait" in sys.argv:
    client.wait_for_job_status("sweep")
"""


def script(*arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=os.getcwd()))


def said(folder: Path) -> dict[str, list[str]]:
    """What the trials of a study wrote, by name."""
    return {path.name: path.read_text().split() for path in folder.iterdir() if path.name.startswith("sweep-")}


ONCE = {f"sweep-{number}": ["began", "ended"] for number in range(20)}


async def test_a_study_whose_client_is_killed_goes_on_and_is_found_by_the_same_call(
    own_home: Path, tmp_path: Path
) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        with script(tmp_path, "wait") as sweep:
            await first(client, "sweep", TrialEnded)
            sweep.kill()
        name = await client.optimize(
            template(tell_all, func_args={"folder": str(tmp_path)}),
            search_space=X,
            trial_config=TrialConfig(20, 2),
            name="sweep",
        )
        job = await finished(client, name)
        assert [trial.status for trial in job.trials] == ["complete"] * 20
        assert said(tmp_path) == ONCE


async def test_two_first_calls_at_once_on_a_fresh_home_make_one_study(own_home: Path, tmp_path: Path) -> None:
    with script(tmp_path) as one, script(tmp_path) as other:
        told = [await asyncio.to_thread(each.communicate) for each in (one, other)]
    assert [out for out, _ in told] == ["sweep\n"] * 2
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        job = await finished(client, "sweep")
        assert [study.name for study in await client.list_jobs()] == ["sweep"]
        assert len(job.trials) == 20
        assert said(tmp_path) == ONCE


# -------------------------------------------------------------------- 13: many


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_four_thousand_trials_take_no_more_descriptors_and_threads_than_a_few(tmp_path: Path) -> None:
    stage = Stage(tmp_path, trials=4000, parallel=8)
    stage.released = True
    seen: list[tuple[int, int]] = []

    def look(number: int) -> None:
        if number % 500 == 250:
            seen.append((len(os.listdir("/proc/self/fd")), threading.active_count()))

    stage.heard = look
    await stage.submit()
    verdict = await stage.drive(1)
    assert verdict is not None
    assert verdict.message == "4000 trials, 0 of them failed"
    assert len(seen) == 8
    descriptors, threads = zip(*seen, strict=True)
    assert max(descriptors) - min(descriptors) <= 3
    assert max(threads) - min(threads) <= 3
    assert sorted(stage.world.created[1:]) == sorted(f"study-{number}" for number in range(4000))


@pytest.mark.slow
async def test_the_processes_of_a_study_do_not_grow_with_its_trials(own_home: Path) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        name = await client.optimize(template(square), search_space=X, trial_config=TrialConfig(120, 4), name="many")
        seen = []
        for ended in (20, 60, 100):
            await first(client, name, TrialEnded, ended)
            seen.append(await sizes(client, name, own_home))
        await finished(client, name)
    for what in zip(*seen, strict=True):
        # Four trials begin and end all the time.
        assert max(what) - min(what) <= 8, seen


async def sizes(client: AsyncOptimizerClient, name: str, home: Path) -> tuple[int, ...]:
    """Descriptors and threads of a study's driver and of the supervisor, and its children."""
    (driver,) = chaos.ranks(await client._studies.engine.job(name))
    serving = await chaos.supervisor(home)
    assert serving is not None
    found: list[int] = []
    for process in (psutil.Process(driver.pid), psutil.Process(serving.pid)):
        found += process.num_fds(), process.num_threads()
    return (*found, len(psutil.Process(serving.pid).children(recursive=True)))


# -------------------------------------------------------------------- 14: readers


async def test_two_clients_and_a_reader_of_the_journal_never_meet_a_lock(own_home: Path) -> None:
    config = LocalProcessBackendConfig()
    async with AsyncOptimizerClient(config) as one, AsyncOptimizerClient(config) as other:
        name = await one.optimize(template(square), search_space=X, trial_config=TrialConfig(40, 4), name="read")
        with reading(own_home / "journal.sqlite3") as counts:
            told: list[OptimizationJob] = []
            jobs = await asyncio.gather(finished(one, name, callbacks=[told.append]), finished(other, name))
    assert [len(job.trials) for job in jobs] == [40, 40]
    assert told[-1].status == "Complete"
    # It saw the study grow.
    assert counts == sorted(counts)
    assert len(set(counts)) > 10


@contextmanager
def reading(journal: Path) -> Iterator[list[int]]:
    """Read a journal as a dashboard would, again and again, with no patience for locks."""
    counts: list[int] = []
    errors: list[sqlite3.Error] = []
    over = threading.Event()

    def read() -> None:
        database = sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=0)
        try:
            while not over.is_set():
                counts.append(database.execute("SELECT count(*) FROM events").fetchone()[0])
        except sqlite3.Error as error:
            errors.append(error)
        finally:
            database.close()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield counts
    finally:
        over.set()
        reader.join()
    assert errors == []


# -------------------------------------------------------------------- 28: late


async def test_a_trial_that_stands_still_is_not_declared_dead_and_its_late_result_counts(
    own_home: Path, tmp_path: Path
) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        gate = closed_gate(tmp_path)
        name = await client.optimize(
            template(pass_gate, func_args={"path": gate.name}),
            search_space=X,
            trial_config=TrialConfig(15, 2),
            name="still",
        )
        await first(client, name, JobStarted, suffix="-0")
        async with aclosing(client.get_job_logs(name, "still-0", follow=True)) as lines:
            assert await anext(lines) == "waiting"
        (rank,) = chaos.ranks(await client._trials.engine.job("still-0"))
        with stopped(rank):
            gate.close()
            # All the others come and go meanwhile.
            await first(client, name, TrialEnded, 14)
            job = await client.get_job(name)
            assert (job.status, [t.name for t in job.trials if t.status == "running"]) == ("Running", ["still-0"])
        job = await finished(client, name)
    assert [trial.status for trial in job.trials] == ["complete"] * 15
    assert job.trials[0].name == "still-0"


async def test_a_driver_that_stands_still_is_not_declared_dead(own_home: Path, tmp_path: Path) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        gate = closed_gate(tmp_path)
        name = await client.optimize(
            template(pass_gate, func_args={"path": gate.name}),
            search_space=X,
            trial_config=TrialConfig(4, 2),
            name="slow",
        )
        await first(client, name, JobStarted, 2, suffix="-")
        (driver,) = chaos.ranks(await client._studies.engine.job(name))
        with stopped(driver):
            gate.close()
            for trial in ("slow-0", "slow-1"):
                await client._trials.wait_for_job_status(trial, timeout=30)
            assert [trial.status for trial in (await client.get_job(name)).trials] == ["running"] * 2
        job = await finished(client, name)
        assert [trial.status for trial in job.trials] == ["complete"] * 4
        assert (await client._studies.engine.job(name)).attempt == 1


def closed_gate(folder: Path) -> TextIO:
    """A file where `pass_gate` waits until it is closed here."""
    gate = open(folder / "gate", "w")  # noqa: SIM115 - whoever asks for it closes it.
    fcntl.flock(gate, fcntl.LOCK_EX)
    return gate


@contextmanager
def stopped(process: chaos.Identity) -> Iterator[None]:
    """Within it a process stands still, as one that swaps or holds its interpreter's lock for long."""
    chaos.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        chaos.kill(process, signal.SIGCONT)


# -------------------------------------------------------------------- 29: callbacks


async def test_a_callback_that_hangs_does_not_delay_the_study(optimizer: AsyncOptimizerClient) -> None:
    called, over = threading.Event(), threading.Event()

    def hang(job: OptimizationJob) -> None:
        called.set()
        over.wait()

    name = await optimizer.optimize(template(square), search_space=X, trial_config=TrialConfig(5))
    blocked = OptimizerClient(LocalProcessBackendConfig())
    waiting = asyncio.create_task(asyncio.to_thread(blocked.wait_for_job_status, name, callbacks=[hang]))
    try:
        await asyncio.to_thread(called.wait)
        assert (await finished(optimizer, name)).status == "Complete"
        assert not waiting.done()
    finally:
        over.set()
    assert (await waiting).status == "Complete"


# -------------------------------------------------------------------- 44: once


async def test_a_finished_study_is_not_run_again_when_everything_starts_anew(own_home: Path, tmp_path: Path) -> None:
    async def study() -> list[TrialStarted | TrialEnded]:
        async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
            name = await client.optimize(
                template(tell_all, func_args={"folder": str(tmp_path)}),
                search_space=X,
                trial_config=TrialConfig(20, 2),
                name="sweep",
            )
            assert (await finished(client, name)).status == "Complete"
            # A new job: whatever the supervisor would take up by itself has been taken up when this one has ended.
            async with AsyncTrainerClient(LocalProcessBackendConfig()) as trainer:
                await (await trainer.submit(train_func=square, func_args={"x": 1.0})).wait()
            events = await client._studies.engine.history((await client._studies.engine.job(name)).uid)
            return [event for event in events if isinstance(event, TrialStarted | TrialEnded)]

    before = await study()
    end_supervisors(own_home)
    assert await study() == before
    assert said(tmp_path) == ONCE
