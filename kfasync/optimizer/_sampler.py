"""Ask and tell: which point a study tries next, and which trial it ends early.

Optuna is loaded when a `Sampler` is made, where the algorithm or the early stopping rule is Optuna's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from kfasync.errors import InvalidSpecError, MissingExtraError, TransitionError
from kfasync.optimizer._algorithms import Algorithm, GridSearch, RandomSearch
from kfasync.optimizer._checks import LARGEST
from kfasync.optimizer._combine import check_search
from kfasync.optimizer._draws import Draws
from kfasync.optimizer._objective import Direction, Objective, TrialState
from kfasync.optimizer._parameter import CategoricalSearchSpace, Value
from kfasync.optimizer._space import SearchSpace
from kfasync.optimizer._stopping import EarlyStopping

__all__ = ["AskTell", "Sampler", "TrialState"]

#: What a sampler or pruner notes on a trial and needs again after a resume.
_KEPT = ("fixed_params", "cma:", "sepcma:", "cmawm:", "x_for_tell", "NSGAIISampler:", "completed_rung_")


class AskTell(Protocol):
    """What drives a search: `Sampler` here, or something on a cluster that answers the same calls."""

    def ask(self, number: int, given: Mapping[str, Any] | None = None) -> dict[str, Value] | None:
        """The parameters of a new trial; None when there is nothing left to try."""

    def parent(self, number: int) -> int | None:
        """The trial whose checkpoint a trial starts with; None for one that starts from nothing."""

    def report(self, number: int, step: float, value: float) -> None:
        """A running trial's first objective at a step."""

    def should_prune(self, number: int) -> bool:
        """Whether a running trial isn't worth going on."""

    def tell(self, number: int, values: Mapping[str, float] | None, state: TrialState | str) -> TrialState:
        """How a trial ended; returns the state that counts."""

    def add(
        self,
        number: int,
        parameters: Mapping[str, Value],
        state: TrialState | str = ...,
        values: Mapping[str, float] | None = ...,
        *,
        reports: Iterable[tuple[float, float]] = ...,
        notes: Mapping[str, Any] | None = ...,
    ) -> TrialState:
        """Take up a trial that exists already, after a resume; returns the state that counts."""

    def notes(self, number: int) -> dict[str, Any]:
        """What to keep beside a trial for `add`, as JSON values."""


class _Source(Protocol):
    """Where a `Sampler` has its points from; not safe for several threads at once."""

    @property
    def count(self) -> int: ...

    def ended(self, number: int) -> bool: ...

    def steps(self, number: int) -> Mapping[int, float]: ...

    def noted(self, number: int) -> Mapping[str, Any]: ...

    def go_on(self, draws: int) -> None: ...

    def suggest(self, fixed: Mapping[str, Value]) -> dict[str, Value]: ...

    def append(
        self,
        state: TrialState,
        point: Mapping[str, Value],
        values: list[float] | None = None,
        steps: dict[int, float] | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None: ...

    def report(self, number: int, step: int, value: float) -> None: ...

    def prunes(self, number: int) -> bool: ...

    def end(self, number: int, state: TrialState, values: list[float] | None) -> None: ...


class Sampler:
    """A search in this process. Fed by calls from the truth that others keep, it holds nothing that must survive.

    Every call may come from any thread. Calls to `ask` and `add` take turns. `report`, `should_prune`, `tell` and
    `notes` take turns among themselves and don't wait for an `ask`, unless a `tell` corrects an earlier one.

    Trials have the numbers 0, 1, 2, … in the order in which they are asked or added; a number left out counts as a
    failed trial. Asked but not told, a trial is running, and the algorithms that can (TPE, GaussianProcess) keep away
    from what it tries.

    With a ``random_state`` and one trial at a time the parameters are those that Optuna suggests for the same
    distributions and seed. With several at once they depend on the order of the calls to `ask` and on which trials
    were told before each of them, not on the order of the tells between two asks. After a resume RandomSearch, Sobol
    and GridSearch go on as if nothing had happened; the others draw from a seed made of ``random_state`` and the number
    of the first new trial, so they repeat neither a trial nor themselves.

    Args:
        space: Where to search.
        objectives: What to optimise.
        algorithm: How.
        stopping: When to end a trial early.
        name: Name of the study; Hyperband assigns trials to brackets by it.

    Raises:
        InvalidSpecError: As `check_search`; or PBT, which is a search of its own.
        MissingExtraError: Optuna, or a library that the algorithm needs, is not installed.

    Example:
        >>> from kfasync.optimizer import Objective, RandomSearch, Search, SearchSpace
        >>> sampler = Sampler(SearchSpace({"x": Search.choice([3])}), [Objective("loss")], RandomSearch(0))
        >>> sampler.ask(0)
        {'x': 3}
        >>> sampler.tell(0, {"loss": 0.5}, "complete").value
        'complete'
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        algorithm: Algorithm,
        stopping: EarlyStopping | None = None,
        *,
        name: str = "kfasync",
    ) -> None:
        check_search(space, objectives, algorithm, stopping)
        if algorithm.hands_on:
            raise InvalidSpecError(f"{type(algorithm).__name__} hands checkpoints from job to job: use optimize()")
        self._space, self._objectives = space, tuple(objectives)
        self._quiet: Callable[[], AbstractContextManager[None]] = nullcontext
        self._fed = self._source(algorithm, stopping, name)
        self._lock = threading.Lock()
        # Taken before the other where both are needed. What an ask shares with the rest is Optuna's storage, which has
        # a lock of its own and replaces a trial instead of changing it.
        self._asking = threading.Lock()
        self._prunes = stopping is not None
        self._worst = math.inf if self._objectives[0].direction == Direction.MINIMIZE else -math.inf
        self._draws = 0
        self._asked = False
        self._grid = space.grid() if isinstance(algorithm, GridSearch) else []
        self._grid_next = 0
        self._losers: set[int] = set()
        self._taken: set[tuple[tuple[str, Value], ...]] = set()

    def _source(self, algorithm: Algorithm, stopping: EarlyStopping | None, name: str) -> _Source:
        if stopping is None and isinstance(algorithm, RandomSearch | GridSearch):
            return Draws(self._space, getattr(algorithm, "random_state", None))
        try:
            from kfasync.optimizer import _optuna
        except ModuleNotFoundError as error:
            raise MissingExtraError("optimizing hyperparameters", "optimizer") from error
        self._quiet = _optuna.quiet
        with self._quiet():
            return _optuna.Fed(self._space, self._objectives, algorithm, stopping, name)

    def ask(self, number: int, given: Mapping[str, Any] | None = None) -> dict[str, Value] | None:
        """The parameters of a new trial, which is running from here on.

        Args:
            number: Its number, greater than all before.
            given: Values to try, in full or in part; the rest is sampled.

        Returns:
            A value for each parameter that exists beside the others; None when a grid is used up (no trial then).

        Raises:
            InvalidSpecError: ``given`` is no point of the space.
            TransitionError: The number was used before.
            Exception: The algorithm broke down (a Gaussian process can); the trial has failed, its number is used.
        """
        with self._asking, self._quiet():
            fixed = self._space.complete(given or {})
            self._reach(number)
            if self._grid and not (fixed := self._grid_point(fixed)):
                return None
            if not self._asked:
                self._asked = True
                self._fed.go_on(self._draws)
            point = self._fed.suggest(fixed)
            self._take(point)
            return point

    def parent(self, number: int) -> int | None:
        """None: no algorithm here hands checkpoints on."""
        return None

    def report(self, number: int, step: float, value: float) -> None:
        """Note a running trial's first objective at a step, for the early stopping rule.

        A step is rounded down, and its last value counts. A value that is nan counts as the worst there is. A step
        that is negative or no number, or a trial that has ended (the news came late), is passed over.
        """
        with self._lock:
            if 0 <= step < LARGEST and len(self._objectives) == 1 and not self._ended(number):
                self._fed.report(number, int(step), self._worst if math.isnan(value) else float(value))

    def should_prune(self, number: int) -> bool:
        """Whether the rule ends a running trial after what it reported; False for one that has ended.

        The answer stays: asked twice, Optuna's successive halving would take a loser for one that has passed.
        """
        with self._lock, self._quiet():
            if not self._prunes or self._ended(number):
                return False
            if number not in self._losers and self._fed.prunes(number):
                self._losers.add(number)
            return number in self._losers

    def tell(self, number: int, values: Mapping[str, float] | None, state: TrialState | str) -> TrialState:
        """How a trial ended.

        Told again, the later word counts: a result may arrive after its trial was given up.

        Args:
            number: The trial.
            values: Its metrics, of which the objectives are taken. A pruned trial's value is the last that it reported.
            state: Complete, failed or pruned.

        Returns:
            The state that counts: a complete trial that lacks an objective, or has nan for one, is failed to the
            algorithm, which learns nothing from it. An infinite objective is a value like others.
        """
        state = TrialState(state)
        if state == TrialState.RUNNING:
            raise TransitionError(f"trial {number} was told to be running; tell how it ended")
        # A correction changes what a sampler remembers.
        corrects = self._ended(number)
        with self._asking if corrects else nullcontext(), self._lock, self._quiet():
            held, state = self._outcome(values, state, self._fed.steps(number))
            self._fed.end(number, state, held)
            return state

    def add(
        self,
        number: int,
        parameters: Mapping[str, Value],
        state: TrialState | str = TrialState.RUNNING,
        values: Mapping[str, float] | None = None,
        *,
        reports: Iterable[tuple[float, float]] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> TrialState:
        """Take up a trial that exists already, in the order of the numbers and before the first `ask` after a resume.

        Args:
            number: Its number.
            parameters: What `ask` gave for it.
            state: Where it stands.
            values: As for `tell`.
            reports: Pairs of step and value, as for `report`.
            notes: What `notes` said about it. Without them CmaEs starts a new distribution and NSGAII a new
                population, each knowing the old trials' values only as far as Optuna looks at them.

        Returns:
            The state that counts, as from `tell`.
        """
        with self._asking:
            point = self._space.complete(parameters)
            self._reach(number)
            steps = {int(s): self._worst if math.isnan(v) else float(v) for s, v in reports if 0 <= s < LARGEST}
            held, state = self._outcome(values, TrialState(state), steps)
            self._fed.append(state, point, held, steps, self._space.load(notes or {}))
            self._take(point)
            if not self._asked:
                fixed = (notes or {}).get("fixed_params", {})
                self._draws += sum(self._cost(name) for name in point if name not in fixed)
            return state

    def notes(self, number: int) -> dict[str, Any]:
        """What the algorithm and the rule noted on a trial, as JSON values, to be kept beside it for `add`.

        It is complete after `ask`; a rule may add to it until the trial ends. Mostly it is empty or small; CmaEs keeps
        its distribution (a pickle, in hexadecimal) in the first trial of each generation.
        """
        with self._lock:
            noted = self._fed.noted(self._known(number)).items()
            return self._space.dump({key: value for key, value in noted if key.startswith(_KEPT)})

    def _ended(self, number: int) -> bool:
        return self._fed.ended(self._known(number))

    def _known(self, number: int) -> int:
        if not 0 <= number < self._fed.count:
            raise TransitionError(f"trial {number} was never asked nor added; there are {self._fed.count}")
        return number

    def _reach(self, number: int) -> None:
        """Make this the next number: Optuna's numbers are ours, and it counts without gaps."""
        if number < self._fed.count:
            raise TransitionError(f"trial {number} can't come after trial {self._fed.count - 1}: numbers ascend")
        while self._fed.count < number:
            self._fed.append(TrialState.FAILED, {})

    def _take(self, point: Mapping[str, Value]) -> None:
        if self._grid:
            self._taken.add(tuple(point.items()))

    def _grid_point(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """The next point of the grid that nobody tried; with values given, the first that has them, tried or not."""
        if given:
            matching = [point for point in self._grid if given.items() <= point.items()]
            return next((point for point in matching if tuple(point.items()) not in self._taken), matching[0])
        while self._grid_next < len(self._grid):
            point = self._grid[self._grid_next]
            self._grid_next += 1
            if tuple(point.items()) not in self._taken:
                return point
        return {}

    def _cost(self, name: str) -> int:
        """How many random numbers a draw takes."""
        spec = self._space.parameters[name]
        if isinstance(spec, CategoricalSearchSpace):
            return len(spec.choices) if len(spec.choices) > 1 else 0
        return 1

    def _outcome(
        self, values: Mapping[str, float] | None, state: TrialState, steps: Mapping[int, float]
    ) -> tuple[list[float] | None, TrialState]:
        if state == TrialState.PRUNED:
            return ([steps[max(steps)]] if steps and len(self._objectives) == 1 else None), state
        if state != TrialState.COMPLETE:
            return None, state
        held = [float((values or {}).get(objective.metric, math.nan)) for objective in self._objectives]
        return (None, TrialState.FAILED) if any(map(math.isnan, held)) else (held, state)
