"""A study in a place in memory: its trials are scripted, its driver runs in the test and can die anywhere."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kfasync import payload
from kfasync.engine import Engine
from kfasync.jobs import JobSpec, RestartPolicy
from kfasync.optimizer import RandomSearch, Search, StopRules, TrainJobTemplate, TrialConfig
from kfasync.optimizer._driver import Driver
from kfasync.optimizer._order import Order
from kfasync.optimizer._study import Study, Verdict
from kfasync.state import verify
from kfasync.testing import Crashes, FakeBackend, FakeBackendConfig, FakeRank, FakeScript, FakeWorld
from kfasync.trainer import AsyncTrainerClient, CustomTrainer

__all__ = ["NAME", "Stage"]

NAME = "study"


def square(x: float) -> None:
    """What a trial's function would be: here the stage's scripts play it."""


class Stage:
    """One study and its place. A trial lasts until as many run as may, so that there always is one under way.

    Args:
        directory: Where the journal is.
        trials: Trials in all.
        parallel: Trials at once.
        rules: When the study is over.
        search: What `Order.of` takes besides.

    Attributes:
        world: The place.
        given: What each trial's job was started with, by its name.
        endings: How often each trial's script came to its end, by the trial's number.
        released: Whether trials last no longer than they must.
        lose: Names of jobs that the place loses once they run.
        heard: Told the number of each trial that begins.
        endless: Names of jobs that last until they are stopped.
    """

    def __init__(
        self, directory: Path, trials: int = 3, parallel: int = 2, *, rules: StopRules | None = None, **search: Any
    ) -> None:
        self.world = FakeWorld(auto=True)
        self.path = directory / "journal.sqlite3"
        self.given: dict[str, float] = {}
        self.endings: Counter[int] = Counter()
        self.released = False
        self.lose: set[str] = set()
        self.endless: set[str] = set()
        self.heard: Callable[[int], object] = lambda number: None
        self._lasting: set[int] = set()
        self._ended: set[int] = set()
        plan = {"algorithm": RandomSearch(1), "objectives": None, "stopping": None, "enqueued": ()} | search
        self.order = Order.of(
            TrainJobTemplate(trainer=CustomTrainer(func=square)),
            {"x": Search.uniform(0, 1)},
            backend=FakeBackendConfig(self.world),
            config=TrialConfig(trials, parallel),
            rules=rules,
            **plan,
        )
        self.world.script(NAME, FakeScript(run=_hang))
        for number in range(trials):
            for name in (f"{NAME}-{number}", f"{NAME}-{number}-r1"):
                self.world.script(name, FakeScript(run=functools.partial(self.play, name, number)))

    def play(self, name: str, number: int, rank: FakeRank, x: float) -> Iterator[float | None]:
        """A trial: reports, lasts, prints its last word and ends."""
        self.given[name] = x
        self.heard(number)
        rank.report(0, loss=x + 1)
        if name in self.lose:
            # Not from within: a job does not take itself away.
            self.world.clock.call_later(0, lambda: self._forget(rank.uid))
            yield from _hang(rank)
        self._lasting.add(number)
        if name in self.endless:
            yield from _hang(rank)
        config = self.order.config
        while not self.released and len(self._lasting) < min(
            config.parallel_trials, config.num_trials - len(self._ended)
        ):
            yield 0.01
        yield 0.01
        self._lasting.discard(number)
        self._ended.add(number)
        self.endings[number] += 1
        rank.print(f"loss={x}")

    def _forget(self, uid: str) -> None:
        self.world.remove(uid)
        self.world.inject.cut()

    async def submit(self) -> None:
        """Start the study's own job; what drives it is up to the test."""
        spec = JobSpec(
            name=NAME,
            entry="study",
            restart=RestartPolicy(max_restarts=20, backoff=0.1),
            extra={"study": self.order.describe()},
        )
        async with self.engine() as engine:
            await (await engine.submit(spec, payload.none())).wait({"Running"}, timeout=20)

    def engine(self) -> Engine:
        """Somebody who looks at the place."""
        return Engine(FakeBackend(self.world), self.path)

    async def drive(self, attempt: int, crashes: Crashes | None = None) -> Verdict | None:
        """What the study's job does in an attempt."""
        async with AsyncTrainerClient(FakeBackendConfig(self.world, crashes or Crashes())) as place:
            # A client learns where its home is when it opens its engine: stages beside each other have one each.
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("KFASYNC_HOME", str(self.path.parent))
                engine = place.engine
            return await Driver(self.order, engine, place, NAME, attempt).run()

    def kill_driver(self) -> None:
        """The place sees the study's process end, and starts it again."""
        self.world.kill_rank(NAME)

    async def study(self) -> Study:
        """What the journal says of the study; the journal replays."""
        verify(self.path)
        study = self.order.study()
        async with self.engine() as engine:
            for event in await engine.history((await engine.job(NAME)).uid):
                study.apply(event)
        return study


def _hang(rank: FakeRank) -> Iterator[float]:
    while True:
        yield float("inf")
