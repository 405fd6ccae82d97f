"""Who goes on from whom: the decisions of population based training. Pure.

A member is a model in training; each of its trials trains it for a stretch. What a trial does depends on the trials
that have ended when it is asked for, and on chance, which depends on the seed and the trial's number alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from kfasync.errors import TransitionError
from kfasync.optimizer._algorithms import PBT
from kfasync.optimizer._combine import check_search
from kfasync.optimizer._explore import draw, perturb
from kfasync.optimizer._objective import Direction, Objective, TrialState
from kfasync.optimizer._parameter import Value
from kfasync.optimizer._space import SearchSpace

__all__ = ["Population"]


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One stretch of a member's training.

    Attributes:
        number: In the study.
        member: Whose.
        stretch: How many stretches of training are in its checkpoint, less one.
        parent: The trial whose checkpoint it starts with, None for a model's first stretch.
        parameters: Its hyperparameters.
        state: Where it stands.
        loss: Its result, of which less is better.
    """

    number: int
    member: int
    stretch: int
    parent: int | None
    parameters: Mapping[str, Value]
    state: TrialState = TrialState.RUNNING
    loss: float = math.nan


class Population:
    """A search that trains a population, behind the calls of `kfasync.optimizer._sampler.AskTell`.

    Args:
        space: Where to search.
        objectives: What to optimise: one.
        algorithm: How.

    Raises:
        InvalidSpecError: As `check_search`.

    Example:
        >>> from kfasync.optimizer import Search
        >>> space = SearchSpace({"lr": Search.loguniform(1e-4, 1e-1)})
        >>> population = Population(space, [Objective("loss")], PBT(population_size=2, random_state=1))
        >>> for number, loss in enumerate([0.9, 0.1]):
        ...     first = population.ask(number)
        ...     state = population.tell(number, {"loss": loss}, "complete")
        >>> parameters = population.ask(2)  # The worse member gives its model up.
        >>> population.parent(2)
        1
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], algorithm: PBT) -> None:
        check_search(space, objectives, algorithm)
        self._space = space
        self._metric = objectives[0].metric
        self._sign = 1.0 if objectives[0].direction == Direction.MINIMIZE else -1.0
        self._algorithm = algorithm
        # By number. A call replaces one trial, which is whole at any time, so that calls may come from any thread.
        self._trials: dict[int, _Trial] = {}

    # ---------------------------------------------------------------- the calls of AskTell

    def ask(self, number: int, given: Mapping[str, Any] | None = None) -> dict[str, Value]:
        """The parameters of a new trial, which is running from here on.

        Args:
            number: Its number, greater than all before.
            given: Values to begin with instead of drawn ones, in full or in part.

        Raises:
            InvalidSpecError: ``given`` is no point of the space.
            TransitionError: The number was used before, or every member has a trial that runs.
        """
        if number in self._trials:
            raise TransitionError(f"trial {number} was asked or added before")
        chance = Random(f"{self._seed}/{number}")
        if number < self._algorithm.population_size:
            trial = self._begin(number, number, chance)
        else:
            trial = self._go_on(number, chance)
        trial = replace(trial, parameters={**trial.parameters, **self._space.complete(given or {})})
        self._trials[number] = trial
        return dict(trial.parameters)

    def parent(self, number: int) -> int | None:
        """The trial whose checkpoint a trial starts with; None for one that starts from nothing."""
        return self._known(number).parent

    def report(self, number: int, step: float, value: float) -> None:
        """Nothing: only the end of a trial counts."""

    def should_prune(self, number: int) -> bool:
        """Never: a trial that is cut short leaves no checkpoint."""
        return False

    def tell(self, number: int, values: Mapping[str, float] | None, state: TrialState | str) -> TrialState:
        """How a trial ended; the later word counts.

        Returns:
            The state that counts: a complete trial without the objective, or with nan for it, has failed.
        """
        loss = self._sign * float((values or {}).get(self._metric, math.nan))
        state = TrialState(state)
        if state is TrialState.COMPLETE and math.isnan(loss):
            state = TrialState.FAILED
        self._trials[number] = replace(self._known(number), state=state, loss=loss)
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
        """Take up a trial that exists already, after a resume.

        Args:
            number: Its number.
            parameters: What `ask` gave for it.
            state: Where it stands.
            values: As for `tell`.
            reports: Not needed.
            notes: What `notes` said about it.
        """
        noted = {"member": number, "stretch": 0, "parent": None, **(notes or {})}
        self._trials[number] = _Trial(
            number=number,
            member=noted["member"],
            stretch=noted["stretch"],
            parent=noted["parent"],
            parameters=self._space.complete(parameters),
        )
        return self.tell(number, values, state)

    def notes(self, number: int) -> dict[str, Any]:
        """The trial's place in the population, as JSON values, to be kept beside it for `add`."""
        trial = self._known(number)
        return {"member": trial.member, "stretch": trial.stretch, "parent": trial.parent}

    def _known(self, number: int) -> _Trial:
        if number not in self._trials:
            raise TransitionError(f"trial {number} was never asked nor added")
        return self._trials[number]

    @property
    def _seed(self) -> int:
        seed = self._algorithm.random_state
        return Random().getrandbits(64) if seed is None else seed

    # ---------------------------------------------------------------- deciding

    def _begin(self, number: int, member: int, chance: Random) -> _Trial:
        """A member's first trial, or its next one where nobody has a model for it."""
        drawn = {name: draw(spec, chance) for name, spec in self._space.parameters.items()}
        return _Trial(number=number, member=member, stretch=0, parent=None, parameters=drawn)

    def _go_on(self, number: int, chance: Random) -> _Trial:
        """The next trial of the member that has waited longest."""
        last = {trial.member: trial for trial in self._ordered()}
        free = [trial for trial in last.values() if trial.state is not TrialState.RUNNING]
        if not free:
            raise TransitionError(f"trial {number} has to wait: each of the {len(last)} members has a trial that runs")
        # Trials of a member follow each other, so the one with the smallest number was decided on first.
        own = min(free, key=lambda trial: trial.number)
        source = self._source(own, chance)
        if source is None:
            return self._begin(number, own.member, chance)
        parameters = source.parameters if source is own else self._explored(source.parameters, chance)
        return _Trial(
            number=number,
            member=own.member,
            stretch=source.stretch + 1,
            parent=source.number,
            parameters=parameters,
        )

    def _source(self, own: _Trial, chance: Random) -> _Trial | None:
        """The trial from which a member goes on: its own last one, if that is good enough."""
        useful = own.state is TrialState.COMPLETE
        if useful and not self._is_among_the_worst(own):
            return own
        latest = {trial.member: trial for trial in self._complete()}
        others = sorted((trial for trial in latest.values() if trial.member != own.member), key=_rank)
        best = [trial for trial in others[: max(1, self._share(len(latest)))] if not useful or trial.loss < own.loss]
        if best:
            return chance.choice(best)
        return own if useful else latest.get(own.member)

    def _is_among_the_worst(self, own: _Trial) -> bool:
        """Whether its result is in the lowest quantile of those of models that were trained as long, or less."""
        peers = {trial.member: trial for trial in self._complete() if trial.stretch <= own.stretch}
        ranked = sorted((peers | {own.member: own}).values(), key=_rank)
        return own in ranked[len(ranked) - self._share(len(ranked)) :]

    def _share(self, count: int) -> int:
        """How many of so many members a quantile is; never more than half of them."""
        return min(math.ceil(self._algorithm.quantile * count - 1e-9), count // 2)

    def _explored(self, parameters: Mapping[str, Value], chance: Random) -> dict[str, Value]:
        explored = {}
        for name, spec in self._space.parameters.items():
            if chance.random() < self._algorithm.resample_probability:
                explored[name] = draw(spec, chance)
            else:
                explored[name] = perturb(spec, parameters[name], chance.choice(self._algorithm.factors))
        return explored

    def _ordered(self) -> list[_Trial]:
        return [self._trials[number] for number in sorted(self._trials)]

    def _complete(self) -> list[_Trial]:
        return [trial for trial in self._ordered() if trial.state is TrialState.COMPLETE]


def _rank(trial: _Trial) -> tuple[float, int]:
    return trial.loss, trial.number
