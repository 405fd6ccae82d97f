"""The driver dies at each of its steps in turn, and whatever it was about, the next one ends the study as it would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import BackendError, BackendUnavailableError, SupersededError
from kfasync.optimizer import MedianStop, StopRules
from kfasync.optimizer._draws import Draws
from kfasync.optimizer._objective import TrialState
from kfasync.optimizer._study import Verdict
from kfasync.testing import Crashes
from tests.optimizer.stage import NAME, Stage

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Make = Callable[[Path], Stage]
# What a study comes to: its trials and its verdict.
End = tuple[list[tuple[Any, ...]], Verdict | None]


def plain(home: Path) -> Stage:
    return Stage(home, trials=3)


def with_a_lost_trial(home: Path) -> Stage:
    """The place loses a trial's job, and the trial is tried again."""
    stage = Stage(home, trials=2)
    stage.lose.add(f"{NAME}-0")
    return stage


def with_a_goal(home: Path) -> Stage:
    """The second trial is good enough, and the one that still runs is ended."""
    stage = Stage(home, trials=3, enqueued=[{"x": 0.9}, {"x": 0.1}], rules=StopRules(goal=0.2))
    stage.endless.add(f"{NAME}-0")
    return stage


def with_early_stopping(home: Path) -> Stage:
    """The second trial is worse than the first one, and is ended early."""
    rule = MedianStop(n_startup_trials=1, n_warmup_steps=0)
    stage = Stage(home, trials=3, parallel=1, enqueued=[{"x": 0.5}, {"x": 0.9}, {"x": 0.1}], stopping=rule)
    stage.endless.add(f"{NAME}-1")
    return stage


STORIES = pytest.mark.parametrize("make", [plain, with_a_lost_trial, with_a_goal, with_early_stopping])


async def check(stage: Stage, verdict: Verdict | None) -> End:
    """That nothing was lost and nothing done twice; gives what must not depend on who drove the study."""
    study = await stage.study()
    trials = list(study.trials.values())
    jobs = [name for name in stage.world.created[1:] if name not in stage.lose]
    # No job was created twice that the place still had, none that nobody knows of.
    assert sorted(jobs) == sorted(set(jobs))
    assert set(jobs) <= {name for trial in trials for name in trial.names}
    # Every job got what was recorded, and what is complete has run to its end once. One that was decided on just before
    # the study was over never had a job.
    made = [trial for trial in trials if trial.name in stage.given]
    assert all(trial.state == "pruned" for trial in trials if trial not in made)
    assert all(stage.given[trial.name] == trial.parameters["x"] for trial in made)
    assert all(stage.endings[trial.number] == (trial.state == "complete") for trial in trials)
    return [(t.number, t.parameters, t.state, t.reason, dict(t.metrics)) for t in trials], verdict


async def undisturbed(make: Make, home: Path) -> tuple[list[str], End]:
    """The points that a driver passes in a quiet life, and how its study ends."""
    stage, crashes = make(home), Crashes()
    await stage.submit()
    verdict = await stage.drive(1, crashes)
    return crashes.reached, await check(stage, verdict)


async def some_at_once(steps: Sequence[int], one: Callable[[int], Awaitable[None]]) -> None:
    """Take each step in a place of its own; together, for each waits for its disk most of the time."""
    room = asyncio.Semaphore(6)

    async def take(step: int) -> None:
        async with room, asyncio.timeout(60):
            await one(step)

    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(take(step))


# What was about to begin when the process was killed, nobody will ever await.
@pytest.mark.filterwarnings("ignore:coroutine 'Core._guard' was never awaited:RuntimeWarning")
@STORIES
async def test_a_driver_that_dies_at_any_step_leaves_a_study_that_ends_the_same(make: Make, tmp_path: Path) -> None:
    points, expected = await undisturbed(make, tmp_path / "quiet")
    died = []

    async def one(step: int) -> None:
        stage, crashes = make(tmp_path / str(step)), Crashes()
        crashes.at_step(step)
        await stage.submit()
        try:
            await stage.drive(1, crashes)
        except BaseException as error:
            # Nothing of a driver may wait on when another part of it is gone.
            if not crashes.dead or isinstance(error, asyncio.CancelledError):
                raise
        died.append(crashes.dead)
        stage.kill_driver()
        # With some, trials end while nobody looks; with the others they run on until there is somebody.
        stage.released = step % 2 == 0
        assert await check(stage, await stage.drive(2)) == expected, crashes.reached

    # The other stories begin as the plain one does. A few steps more than there were: no two lives batch events alike.
    beginning = 0 if make is plain else points.index("submit:before")
    await some_at_once(range(beginning, len(points) + 10), one)
    assert sum(died) >= len(points) - beginning - 10


@pytest.mark.parametrize("call", ["submit", "cancel"])
async def test_a_place_that_is_down_for_long_costs_time_and_nothing_else(tmp_path: Path, call: str) -> None:
    stage = with_early_stopping(tmp_path)
    await stage.submit()
    # The engine asks four times.
    stage.world.inject.refuse(call, BackendUnavailableError("the place is down"), times=10)
    await check(stage, await stage.drive(1))
    assert [trial.state for trial in (await stage.study()).trials.values()] == ["complete", "pruned", "complete"]


async def test_a_trial_that_could_not_be_stopped_ends_its_driver_and_is_stopped_by_the_next_one(tmp_path: Path) -> None:
    stage = with_early_stopping(tmp_path)
    stage.world.inject.refuse("cancel", BackendError("no permission"))
    await stage.submit()
    with pytest.raises(ExceptionGroup):
        await stage.drive(1)
    stage.kill_driver()
    await check(stage, await stage.drive(2))
    assert [trial.state for trial in (await stage.study()).trials.values()] == ["complete", "pruned", "complete"]


class Usurped(Crashes):
    """At one of its steps, a driver is taken for dead and another one is started; it knows nothing of it."""

    def __init__(self, step: int, usurp: Callable[[], None]) -> None:
        super().__init__()
        self._nth, self._usurp = step, usurp

    def pass_by(self, point: str) -> None:
        super().pass_by(point)
        if len(self.reached) == self._nth + 1:
            self._usurp()


@STORIES
async def test_a_driver_that_goes_on_beside_its_successor_changes_nothing(make: Make, tmp_path: Path) -> None:
    points, expected = await undisturbed(make, tmp_path / "quiet")
    refused = []

    async def one(step: int) -> None:
        stage = make(tmp_path / str(step))
        await stage.submit()
        second: list[asyncio.Task[Verdict | None]] = []

        def usurp() -> None:
            stage.kill_driver()
            second.append(asyncio.create_task(stage.drive(2)))

        try:
            verdict = await stage.drive(1, Usurped(step, usurp))
        except* SupersededError as error:
            refused.append(error)
        if second:
            verdict = await second[0]
        trials, ended = await check(stage, verdict)
        # The old one, which knows of the goal first, may end a trial, whose slot the new one then fills.
        more = make is with_a_goal and len(trials) == len(expected[0]) + 1
        assert trials[: len(expected[0])] == expected[0], step
        assert (len(trials) == len(expected[0]) and ended == expected[1]) or more, step

    await some_at_once(range(0, len(points), 3), one)
    assert len(refused) > len(points) // 9


async def test_an_algorithm_that_breaks_down_costs_a_trial_and_not_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suggest = Draws.suggest

    def broken(self: Draws, fixed: Any) -> Any:
        point = suggest(self, fixed)
        if self.count == 2:
            self.end(1, TrialState.FAILED, None)
            raise ArithmeticError("singular matrix")
        return point

    monkeypatch.setattr(Draws, "suggest", broken)
    stage = Stage(tmp_path)
    await stage.submit()
    verdict = await stage.drive(1)
    assert verdict is not None
    assert verdict.complete
    trials = (await stage.study()).trials
    assert {number: (trial.state, trial.reason) for number, trial in trials.items()} == {
        0: (TrialState.COMPLETE, ""),
        1: (TrialState.FAILED, "AlgorithmFailed"),
        2: (TrialState.COMPLETE, ""),
    }
