"""Which points are tried: the search algorithms as plain values. Pure.

Options and their defaults are Optuna 5's; `random_state` is its seed, under Kubeflow's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kfasync.errors import InvalidSpecError
from kfasync.optimizer._checks import flag, real, whole

__all__ = [
    "ALGORITHM_REGISTRY",
    "NSGAII",
    "PBT",
    "TPE",
    "Algorithm",
    "CmaEs",
    "GaussianProcess",
    "GridSearch",
    "RandomSearch",
    "Sobol",
]

#: numpy's RandomState takes no more.
_LARGEST_SEED = 2**32 - 1


class Algorithm:
    """What all algorithms share."""

    _name: ClassVar[str]
    #: Whether it can weigh several objectives against each other.
    several_objectives: ClassVar[bool] = True
    #: Whether a trial goes on from the checkpoint of one that has ended. Then its parameters depend on what has ended,
    #: they are not asked for ahead of need, and its result is the latest value, for that is the checkpoint's.
    hands_on: ClassVar[bool] = False
    random_state: int | None

    @property
    def algorithm_name(self) -> str:
        """Its name, Katib's where Katib has it."""
        return self._name

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        seed = getattr(self, "random_state", None)
        if seed is not None:
            self.random_state = whole(seed, f"{type(self).__name__}: random_state", least=0, most=_LARGEST_SEED)

    def _whole(self, name: str, least: int) -> None:
        setattr(self, name, whole(getattr(self, name), f"{type(self).__name__}: {name}", least=least))

    def _share(self, name: str) -> None:
        setattr(self, name, real(getattr(self, name), f"{type(self).__name__}: {name}", least=0.0, most=1.0))

    def _flags(self, *names: str) -> None:
        for name in names:
            flag(getattr(self, name), f"{type(self).__name__}: {name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"algorithm": self._name, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Algorithm:
        """The algorithm that `to_dict` wrote; unknown keys (of a newer version) are ignored.

        Raises:
            InvalidSpecError: This version has no algorithm of that name.

        Example:
            >>> Algorithm.from_dict(TPE(random_state=1).to_dict()).random_state
            1
        """
        cls = ALGORITHM_REGISTRY.get(data["algorithm"])
        if cls is None:
            raise InvalidSpecError(f"no algorithm is named {data['algorithm']!r}; known: {sorted(ALGORITHM_REGISTRY)}")
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in data.items() if key in known})


@dataclass
class GridSearch(Algorithm):
    """Every point of a space of steps and choices, once, in the order of `SearchSpace.grid`."""

    _name = "grid"


@dataclass
class RandomSearch(Algorithm):
    """Independent draws.

    Attributes:
        random_state: Seed; the same one gives the same trials.
    """

    _name = "random"

    random_state: int | None = None


@dataclass
class TPE(Algorithm):
    """The Tree-structured Parzen Estimator, Optuna's default: robust, for any space, one objective or several.

    Attributes:
        random_state: Seed.
        n_startup_trials: Finished trials before which draws are random.
        n_ei_candidates: Candidates of which the most promising is taken.
        multivariate: Model parameters jointly; None does so for one objective.
        group: Model conditional parameters in groups, jointly in each. Experimental in Optuna.
        constant_liar: Keep away from what running trials try.
    """

    _name = "tpe"

    random_state: int | None = None
    n_startup_trials: int = 10
    n_ei_candidates: int = 24
    multivariate: bool | None = None
    group: bool = False
    constant_liar: bool = True

    def _check(self) -> None:
        super()._check()
        self._whole("n_startup_trials", 0)
        self._whole("n_ei_candidates", 1)
        self._flags("group", "constant_liar", *(() if self.multivariate is None else ("multivariate",)))
        if self.group and self.multivariate is False:
            raise InvalidSpecError("TPE: group=True needs multivariate=True or None")


@dataclass
class CmaEs(Algorithm):
    """CMA-ES, for continuous and integer parameters and one objective; choices and conditional parameters are random.

    Attributes:
        random_state: Seed.
        n_startup_trials: Finished trials before which draws are random.
        popsize: Trials a generation; None for ``4 + floor(3 ln n)`` of n parameters.
        with_margin: Keep discrete parameters from getting stuck. Experimental in Optuna, as the next three.
        use_separable_cma: A diagonal covariance, for many parameters.
        lr_adapt: Adapt the learning rate, for noisy objectives with many optima.
        consider_pruned_trials: Learn from pruned trials too.
    """

    _name = "cmaes"
    several_objectives = False

    random_state: int | None = None
    n_startup_trials: int = 1
    popsize: int | None = None
    with_margin: bool = False
    use_separable_cma: bool = False
    lr_adapt: bool = False
    consider_pruned_trials: bool = False

    def _check(self) -> None:
        super()._check()
        self._whole("n_startup_trials", 0)
        if self.popsize is not None:
            self._whole("popsize", 2)
        self._flags("with_margin", "use_separable_cma", "lr_adapt", "consider_pruned_trials")
        if self.with_margin + self.use_separable_cma + self.lr_adapt > 1:
            raise InvalidSpecError("CmaEs: use one of with_margin, use_separable_cma and lr_adapt")


@dataclass
class GaussianProcess(Algorithm):
    """Bayesian optimisation with a Gaussian process (needs torch): few, long trials; conditional parameters are random.

    Attributes:
        random_state: Seed.
        n_startup_trials: Finished trials before which draws are random.
        deterministic_objective: The same point always gives the same value. Experimental in Optuna.
    """

    _name = "bayesianoptimization"

    random_state: int | None = None
    n_startup_trials: int = 10
    deterministic_objective: bool = False

    def _check(self) -> None:
        super()._check()
        self._whole("n_startup_trials", 0)
        self._flags("deterministic_objective")


@dataclass
class Sobol(Algorithm):
    """A Sobol sequence: covers the space more evenly than chance. The first trial is random, as in Optuna.

    Attributes:
        random_state: Seed of the first trial and of the scrambling.
        scramble: Randomise the sequence.
    """

    _name = "sobol"

    random_state: int | None = None
    scramble: bool = False

    def _check(self) -> None:
        super()._check()
        self._flags("scramble")


@dataclass
class NSGAII(Algorithm):
    """The genetic algorithm NSGA-II, for several objectives and hundreds of trials.

    Attributes:
        random_state: Seed.
        population_size: Trials a generation.
        mutation_prob: Chance of redrawing a parameter; None for one parameter a child on average.
        crossover_prob: Chance that a child has two parents.
        swapping_prob: Chance that a parameter comes from the other parent.
    """

    _name = "nsgaii"

    random_state: int | None = None
    population_size: int = 50
    mutation_prob: float | None = None
    crossover_prob: float = 0.9
    swapping_prob: float = 0.5

    def _check(self) -> None:
        super()._check()
        self._whole("population_size", 2)
        for name in ("crossover_prob", "swapping_prob", *(() if self.mutation_prob is None else ("mutation_prob",))):
            self._share(name)


@dataclass
class PBT(Algorithm):
    """Population based training (Jaderberg et al. 2017): hyperparameters that change while models are trained.

    A population of models is trained side by side. Each trial trains one of them, a *member*, for a while, and leaves
    a checkpoint. The first ``population_size`` trials are drawn at random. After that a trial is a member's next
    stretch: it starts with a copy of the member's checkpoint and with its parameters. But a member whose result is
    among the worst gives its model up: it takes the checkpoint and the parameters of one of the best, and changes each
    of these: draws it anew with ``resample_probability``, else multiplies it by one of ``factors`` (a choice moves to a
    neighbour). So does a member whose trial failed.

    Members don't wait for each other. A result is compared with what the others had achieved when they had been
    trained as long, so that a member is not given up because it is behind; what it takes is the best there is now.

    The training code of a trial loads what it finds in `kfasync.checkpoint_dir`, trains for a fixed stretch, saves
    there, and reports the objective; its latest value counts. Save everything that training needs to go on: weights,
    the optimizer's state, the step. Load first and apply the trial's parameters then, for they may have changed. A
    trial that saves nothing has failed. Checkpoints are kept until their jobs are deleted.

    For one objective, without conditional parameters and without an early stopping rule: PBT itself ends what is bad.

    Attributes:
        random_state: Seed. It decides each trial's chances by its number; which members have ended when it starts
            depends on time as well, unless one trial runs at once.
        population_size: Models that are trained, 2 or more: at least ``parallel_trials``, less than ``num_trials``.
        quantile: Share of the members that counts as the best, and as the worst: above 0, at most 0.5.
        factors: What a parameter is multiplied by, one of these at random.
        resample_probability: Chance that a parameter is drawn anew instead.

    Example:
        >>> import kfasync
        >>> def train(lr: float) -> None:
        ...     saved = kfasync.checkpoint_dir() / "state.json"
        ...     state = json.loads(saved.read_text()) if saved.exists() else {"epoch": 0, "weight": 1.0}
        ...     for _ in range(5):
        ...         state = train_one_epoch(state, lr)
        ...     saved.write_text(json.dumps(state))
        ...     kfasync.report(epoch=state["epoch"], loss=loss_of(state))
        >>> algorithm = PBT(population_size=8, random_state=1)
    """

    _name = "pbt"
    several_objectives = False
    hands_on = True

    random_state: int | None = None
    population_size: int = 10
    quantile: float = 0.2
    factors: tuple[float, ...] = (0.8, 1.2)
    resample_probability: float = 0.25

    def _check(self) -> None:
        super()._check()
        self._whole("population_size", 2)
        self._share("resample_probability")
        self.quantile = real(self.quantile, "PBT: quantile", least=0.0, most=0.5)
        if not self.quantile:
            raise InvalidSpecError("PBT: quantile must be above 0: with none of the worst, nothing is ever given up")
        if isinstance(self.factors, str | Mapping) or not isinstance(self.factors, Sequence) or not self.factors:
            raise InvalidSpecError(f"PBT: factors must list numbers such as 0.8 and 1.2, not {self.factors!r}")
        self.factors = tuple(real(factor, "PBT: factors") for factor in self.factors)
        if not all(factor > 0 and factor != 1 for factor in self.factors):
            raise InvalidSpecError(f"PBT: factors are above 0 and not 1, which changes nothing; not {self.factors}")


ALGORITHM_REGISTRY: Mapping[str, type[Algorithm]] = {
    cls._name: cls for cls in (GridSearch, RandomSearch, TPE, CmaEs, GaussianProcess, Sobol, NSGAII, PBT)
}
