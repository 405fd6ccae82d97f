"""Ask and tell: studies whose trials the caller runs, over crashes, take-overs and several processes."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import (
    InvalidSpecError,
    JobExistsError,
    JobFailedError,
    JobNotFoundError,
    StudyHeldError,
    SupersededError,
)
from kfasync.optimizer import (
    PBT,
    AskedTrial,
    AsyncOptimizerClient,
    GridSearch,
    MedianStop,
    Objective,
    OptimizerClient,
    Search,
    StopRules,
    TrialConfig,
)
from kfasync.optimizer._draws import Draws
from kfasync.optimizer._lease import Lease, ended
from kfasync.optimizer._objective import TrialState
from kfasync.state import verify
from tests.optimizer.studies import X

pytestmark = pytest.mark.anyio


def config(trials: int) -> TrialConfig:
    return TrialConfig(num_trials=trials)


# -------------------------------------------------------------------- a whole life


async def test_a_study_is_asked_and_told_to_its_end(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, trial_config=config(4), name="whole") as study:
        while (trial := await study.ask()) is not None:
            assert (await optimizer.get_job("whole")).status == "Running"
            await study.tell(trial, trial.parameters["x"] ** 2)
        [best] = study.best
    job = await optimizer.get_job("whole")
    assert (job.status, job.reason) == ("Complete", "AllTrials")
    assert [(trial.number, trial.status) for trial in job.trials] == [(n, "complete") for n in range(4)]
    assert best == await optimizer.get_best_results("whole")
    assert best.metrics[0].latest == min(trial.parameters["x"] ** 2 for trial in job.trials)
    assert [each.name for each in await optimizer.list_jobs() if each.name == "whole"] == ["whole"]
    assert "whole" not in [each.name for each in await optimizer._trials.list_jobs()]
    await optimizer.delete_job("whole")
    with pytest.raises(JobNotFoundError):
        await optimizer.get_job("whole")


async def test_opened_after_its_end_it_has_nothing_to_try_but_can_be_looked_at(optimizer: AsyncOptimizerClient) -> None:
    for _ in range(2):
        async with optimizer.study(search_space=X, trial_config=config(1), name="over") as study:
            while (trial := await study.ask()) is not None:
                await study.tell(trial, 1.0)
            assert [result.metrics[0].latest for result in study.best] == [1.0]
            with pytest.raises(InvalidSpecError, match="ended already"):
                await study.tell(0, 2.0)


async def test_many_tasks_ask_at_once(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, trial_config=config(20), name="tasks") as study:

        async def work() -> None:
            while (trial := await study.ask()) is not None:
                await asyncio.sleep(0)
                await study.tell(trial, trial.parameters["x"])

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(work())
    job = await optimizer.get_job("tasks")
    assert [trial.number for trial in job.trials] == list(range(20))
    assert len({trial.parameters["x"] for trial in job.trials}) == 20


async def test_points_that_were_asked_for_come_first(optimizer: AsyncOptimizerClient) -> None:
    points = [{"x": 0.25}, {"x": 0.75}]
    async with optimizer.study(search_space=X, enqueue=points, name="enqueued") as study:
        given = [await study.ask() for _ in range(3)]
    assert [trial.parameters for trial in given[:2] if trial] == points


@pytest.mark.parametrize("patience", [1e-4, 1e-3, 1e-2])
async def test_calls_that_are_cut_lose_no_trial(optimizer: AsyncOptimizerClient, patience: float) -> None:
    name = f"cut-{round(patience * 1e6)}"
    async with optimizer.study(search_space=X, trial_config=config(12), name=name) as study:

        async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
            while True:
                try:
                    return await asyncio.wait_for(call(), patience)
                except TimeoutError:
                    continue

        async def tell(trial: AskedTrial) -> None:
            # What was cut has been done, or will be.
            with suppress(InvalidSpecError):
                await study.tell(trial, 1.0)

        while (trial := await insist(study.ask)) is not None:
            await insist(lambda trial=trial: tell(trial))  # type: ignore[misc]
    job = await optimizer.get_job(name)
    assert [(trial.number, trial.status) for trial in job.trials] == [(n, "complete") for n in range(12)]
    assert job.status == "Complete"


# -------------------------------------------------------------------- what is told


async def test_a_trial_may_fail_or_be_pruned_or_told_by_its_number(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, trial_config=config(4), name="ends") as study:
        trials = [await study.ask() for _ in range(4)]
        await study.tell(trials[2] or 2, state="failed", message="it diverged")
        await study.tell(1, state="pruned")
        await study.tell(3, math.nan)
        await study.tell(0, {"loss": math.inf, "accuracy": 0.5})
    job = await optimizer.get_job("ends")
    assert [(trial.status, trial.reason) for trial in job.trials] == [
        ("complete", ""), ("pruned", "Pruned"), ("failed", "Failed"), ("failed", "NoMetric"),
    ]  # fmt: skip
    assert {metric.name: metric.latest for metric in job.trials[0].metrics} == {"loss": math.inf, "accuracy": 0.5}
    assert job.status == "Complete"


async def test_too_many_failures_end_it_as_failed(optimizer: AsyncOptimizerClient) -> None:
    limits = TrialConfig(num_trials=9, max_failed_trials=1)
    async with optimizer.study(search_space=X, trial_config=limits, name="failing") as study:
        for _ in range(2):
            await study.tell(await study.ask() or 0, state="failed", message="no luck")
        assert await study.ask() is None
    with pytest.raises(JobFailedError, match=r"MaxFailedTrials.*no luck"):
        await optimizer.wait_for_job_status("failing")


async def test_a_goal_ends_it_and_prunes_what_was_not_told(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, stop=StopRules(goal=0.5), name="goal") as study:
        first, _ = await study.ask(), await study.ask()
        await study.tell(first or 0, 0.4)
        assert await study.ask() is None
    job = await optimizer.get_job("goal")
    assert (job.status, job.reason) == ("Complete", "Goal")
    assert [trial.status for trial in job.trials] == ["complete", "pruned"]


async def test_a_grid_ends_when_it_is_used_up(optimizer: AsyncOptimizerClient) -> None:
    space = {"x": Search.choice([1, 2])}
    async with optimizer.study(search_space=space, algorithm=GridSearch(), name="grid") as study:
        seen = []
        while (trial := await study.ask()) is not None:
            seen.append(trial.parameters["x"])
            await study.tell(trial, 0.0)
    assert seen == [1, 2]
    assert (await optimizer.get_job("grid")).reason == "Exhausted"


async def test_reports_decide_on_early_stopping_and_are_kept(optimizer: AsyncOptimizerClient) -> None:
    rule = MedianStop(n_startup_trials=1)

    def opened() -> Any:
        return optimizer.study(search_space=X, trial_config=config(3), early_stopping=rule, name="early")

    async with opened() as study:
        good = await study.ask()
        assert not await study.report(good, 0, 0.1)
        assert not await study.report(good, 1, 0.1)
        await study.tell(good, 0.1)
    async with opened() as study:
        bad = await study.ask()
        assert await study.report(bad, 0, 0.9)
        await study.tell(bad, state="pruned")
        odd = await study.ask()
        assert await study.report(odd, 0, math.nan)
    assert [trial.status for trial in (await optimizer.get_job("early")).trials] == ["complete", "pruned", "running"]


async def test_several_objectives_are_told_by_name(optimizer: AsyncOptimizerClient) -> None:
    goals = [Objective("loss"), Objective("accuracy", "maximize")]
    async with optimizer.study(search_space=X, objectives=goals, trial_config=config(3), name="pareto") as study:
        for values in ((1.0, 1.0), (2.0, 2.0), (3.0, 0.0)):
            trial = await study.ask()
            with pytest.raises(InvalidSpecError, match="by name"):
                await study.tell(trial or 0, 1.0)
            await study.tell(trial or 0, {"loss": values[0], "accuracy": values[1]})
        assert [[metric.latest for metric in result.metrics] for result in study.best] == [[1.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize("always", [False, True])
async def test_an_algorithm_that_breaks_down_costs_a_trial_and_not_the_study(
    optimizer: AsyncOptimizerClient, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    suggest = Draws.suggest

    def broken(self: Draws, fixed: Any) -> Any:
        point = suggest(self, fixed)
        if always or self.count == 2:
            self.end(self.count - 1, TrialState.FAILED, None)
            raise ArithmeticError("singular matrix")
        return point

    monkeypatch.setattr(Draws, "suggest", broken)
    name = f"broken-{always}".lower()
    async with optimizer.study(search_space=X, trial_config=config(3), name=name) as study:
        while (trial := await study.ask()) is not None:
            await study.tell(trial, 1.0)
    job = await optimizer.get_job(name)
    failed = ("failed", "AlgorithmFailed")
    fine = ("complete", "")
    assert [(trial.status, trial.reason) for trial in job.trials] == ([failed] * 3 if always else [fine, failed, fine])
    assert job.status == ("Failed" if always else "Complete")
    assert "singular matrix" in (job.message if always else job.trials[1].message)


# -------------------------------------------------------------------- bad input


async def test_bad_input_is_refused_before_anything_is_there(optimizer: AsyncOptimizerClient) -> None:
    calls: list[tuple[dict[str, Any], str]] = [
        ({"search_space": {}}, "search space"),
        ({"search_space": X, "algorithm": "TPE"}, "algorithm"),
        ({"search_space": X, "name": "No Name"}, "name"),
        ({"search_space": X, "enqueue": [{"y": 1}]}, "y"),
        ({"search_space": X, "algorithm": PBT(population_size=2)}, "PBT"),
    ]
    before = len(await optimizer.list_jobs())
    for keywords, told in calls:
        with pytest.raises(InvalidSpecError, match=told):
            optimizer.study(**keywords)
    assert len(await optimizer.list_jobs()) == before


async def test_what_can_not_be_told_is_refused(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, trial_config=config(2), name="wrong") as study:
        trial = await study.ask()
        assert trial is not None
        with pytest.raises(InvalidSpecError, match="no trial 7"):
            await study.tell(7, 1.0)
        with pytest.raises(InvalidSpecError, match="must be numbers"):
            await study.tell(trial, {"loss": "low"})  # type: ignore[dict-item]
        with pytest.raises(InvalidSpecError, match="complete, failed or pruned"):
            await study.tell(trial, 1.0, state="running")
        with pytest.raises(InvalidSpecError, match="step"):
            await study.report(trial, -1, 1.0)
        await study.tell(trial, 1.0)
        with pytest.raises(InvalidSpecError, match="ended already"):
            await study.tell(trial, 1.0)


async def test_a_name_belongs_to_one_study(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, name="taken"):
        with pytest.raises(JobExistsError):
            async with optimizer.study(search_space={"y": Search.uniform(0, 1)}, name="taken"):
                raise AssertionError


# -------------------------------------------------------------------- one process at a time


async def test_left_early_it_is_suspended_and_goes_on_where_it_is_opened_again(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, trial_config=config(3), name="left") as study:
        first, second = await study.ask(), await study.ask()
        await study.tell(first or 0, 1.0)
    assert (await optimizer.get_job("left")).status == "Suspended"
    async with optimizer.study(search_space=X, trial_config=config(3), name="left") as study:
        again = await study.ask()
        assert again
        assert second
        assert (again.number, again.parameters, again.retry) == (second.number, second.parameters, 1)
        await study.tell(again, 2.0)
        last = await study.ask()
        assert last
        assert last.number == 2
        await study.tell(last, 3.0)
    job = await optimizer.get_job("left")
    assert (job.status, len(job.trials)) == ("Complete", 3)


async def test_a_late_word_on_a_trial_of_an_earlier_process_counts(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, trial_config=config(1), name="late") as study:
        trial = await study.ask()
    async with optimizer.study(search_space=X, trial_config=config(1), name="late") as study:
        await study.tell(trial or 0, 1.0)
    assert (await optimizer.get_job("late")).status == "Complete"


async def test_opened_twice_in_one_process_it_is_refused(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, name="twice"):
        for wait in (False, True):
            with pytest.raises(StudyHeldError, match=str(os.getpid())):
                async with optimizer.study(search_space=X, name="twice", wait=wait):
                    raise AssertionError


async def test_stopped_or_deleted_by_others_it_says_so(optimizer: AsyncOptimizerClient) -> None:
    stops = {"suspended": optimizer.suspend, "cancelled": optimizer.cancel, "deleted": optimizer.delete_job}
    for name, stop in stops.items():
        async with optimizer.study(search_space=X, name=name) as study:
            trial = await study.ask()
            await stop(name)
            with pytest.raises(SupersededError, match=name):
                await study.tell(trial or 0, 1.0)
            assert await study.ask() is None
    assert (await optimizer.get_job("suspended")).status == "Suspended"
    cancelled = await optimizer.get_job("cancelled")
    assert (cancelled.status, cancelled.reason) == ("Failed", "Cancelled")


async def test_a_suspended_one_is_resumed_by_opening_it_only(optimizer: AsyncOptimizerClient) -> None:
    async with optimizer.study(search_space=X, name="resumed"):
        pass
    with pytest.raises(RuntimeError, match="opened again"):
        await optimizer.resume("resumed")


#: Opens the study, asks once, says so, and waits to be killed.
_HOLDER = """
import signal, sys
from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.optimizer import OptimizerClient, Search, TrialConfig
client = OptimizerClient(LocalProcessBackendConfig())
with client.study(search_space={"x": Search.uniform(0, 1)}, trial_config=TrialConfig(2), name="held") as study:
    print(study.ask().parameters["x"], flush=True)
    sys.stdin.read()
"""


def hold() -> tuple[subprocess.Popen[str], float]:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    return holder, float(holder.stdout.readline())


def end(holder: subprocess.Popen[str]) -> None:
    for stream in (holder.stdin, holder.stdout):
        assert stream is not None
        stream.close()
    holder.wait()


async def test_another_process_is_named_and_waited_for_until_it_is_killed(own_home: Path) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        holder, x = await asyncio.to_thread(hold)
        with pytest.raises(StudyHeldError, match=f"process {holder.pid}"):
            async with client.study(search_space=X, trial_config=config(2), name="held"):
                raise AssertionError
        waiting = asyncio.create_task(_take_over(client))
        watching = asyncio.create_task(client.wait_for_job_status("held", timeout=60))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        holder.kill()
        assert await asyncio.wait_for(waiting, 60) == [x]
        assert (await watching).status == "Complete"
        await asyncio.to_thread(end, holder)
    assert verify(own_home / "journal.sqlite3") > 0
    assert list((own_home / "studies").iterdir()) == []


async def _take_over(client: AsyncOptimizerClient) -> list[float]:
    """Goes on with the study; what was handed out again."""
    again = []
    async with client.study(search_space=X, trial_config=config(2), name="held", wait=True) as study:
        while (trial := await study.ask()) is not None:
            if trial.retry:
                again.append(trial.parameters["x"])
            await study.tell(trial, 1.0)
    return again


async def test_who_waits_takes_over_as_soon_as_the_other_has_left(own_home: Path) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        holder, x = await asyncio.to_thread(hold)
        waiting = asyncio.create_task(_take_over(client))
        await asyncio.to_thread(end, holder)
        assert await asyncio.wait_for(waiting, 60) == [x]


@pytest.mark.parametrize("look", ["get_job", "list_jobs", "wait"])
async def test_after_a_kill_it_does_not_pass_for_running(own_home: Path, look: str) -> None:
    async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
        holder, _ = await asyncio.to_thread(hold)
        assert (await client.get_job("held")).status == "Running"
        watching = asyncio.create_task(client.wait_for_job_status("held", {"Suspended"}, timeout=60))
        await asyncio.sleep(0)
        holder.send_signal(signal.SIGKILL)
        await asyncio.to_thread(end, holder)
        if look == "wait":
            assert (await watching).status == "Suspended"
        watching.cancel()
        await asyncio.wait([watching])
        [job] = await client.list_jobs() if look == "list_jobs" else [await client.get_job("held")]
        assert job.status == "Suspended"
        assert [trial.status for trial in job.trials] == ["running"]


async def test_a_child_made_by_fork_keeps_no_study_of_its_dead_parent(own_home: Path) -> None:
    script = _HOLDER.replace("    sys.stdin.read()", "    import os; os.fork() or signal.pause(); sys.stdin.read()")
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        await asyncio.to_thread(holder.stdout.readline)
        async with AsyncOptimizerClient(LocalProcessBackendConfig()) as client:
            assert (await client.get_job("held")).status == "Running"
            [child] = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[-1:]
            holder.kill()
            await ended(holder.pid)
            assert (await client.get_job("held")).status == "Suspended"
            os.kill(int(child), signal.SIGKILL)
            await ended(int(child))
    finally:
        await asyncio.to_thread(end, holder)


async def test_the_blocking_twin_asks_and_tells(own_home: Path) -> None:
    def use() -> list[float]:
        client = OptimizerClient(LocalProcessBackendConfig())
        with client.study(search_space=X, trial_config=config(3), name="blocking") as study:
            while (trial := study.ask()) is not None:
                study.report(trial, 0, 1.0)
                study.tell(trial, float(trial.number))
            assert (study.name, len(study.trials)) == ("blocking", 3)
            return [result.metrics[0].latest for result in study.best]

    assert await asyncio.to_thread(use) == [0.0]


# -------------------------------------------------------------------- the lease itself


def test_a_lease_is_had_once_and_leaves_no_file(tmp_path: Path) -> None:
    one, other = Lease(tmp_path / "leases" / "a"), Lease(tmp_path / "leases" / "a")
    assert other.holder() is None
    assert one.take()
    assert not other.take()
    assert other.holder() == os.getpid()
    one.release()
    assert other.holder() is None
    assert list((tmp_path / "leases").iterdir()) == []
    assert other.take()
    other.release()


def test_of_many_threads_one_has_the_lease(tmp_path: Path) -> None:
    had: list[int] = []
    inside = threading.Semaphore(1)

    def work(number: int) -> None:
        for _ in range(50):
            lease = Lease(tmp_path / "a")
            if lease.take():
                assert inside.acquire(blocking=False)
                had.append(number)
                inside.release()
                lease.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(had) >= 50


async def test_the_end_of_a_process_that_is_gone_is_known_at_once() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    await asyncio.wait_for(ended(child.pid), 10)
