"""What a study can't be: an error that names the parameter, before anything exists. And what its trials are given."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfasync.backends.local import LocalProcessBackendConfig
from kfasync.errors import InvalidSpecError, RuntimeNotFoundError
from kfasync.optimizer import (
    ASHA,
    PBT,
    TPE,
    AsyncOptimizerClient,
    CmaEs,
    GridSearch,
    Objective,
    Search,
    StopRules,
    TrainJobTemplate,
    TrialConfig,
)
from kfasync.optimizer._order import Order
from kfasync.trainer import CustomTrainer, CustomTrainerContainer, HuggingFaceDatasetInitializer, Initializer

pytestmark = pytest.mark.anyio


def train(lr: float = 0.1, size: int = 1, flag: bool = False, name: str = "", any_: object = None, **more: Any) -> None:
    print(f"loss={lr * size}")


def strict(lr: float) -> None:
    print(f"loss={lr}")


def template(
    func: Callable[..., Any] | str = train, runtime: Any = None, initializer: Any = None, **trainer: Any
) -> Any:
    return TrainJobTemplate(trainer=CustomTrainer(func=func, **trainer), runtime=runtime, initializer=initializer)


_LR = Search.uniform(0, 1)

#: What a user may write, as the keywords of `optimize`, made only when it is called; and what the error must name.
_BAD: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "empty space": (lambda: {"search_space": {}}, "search space"),
    "no space": (lambda: {"search_space": None}, "search space"),
    "no spec": (lambda: {"search_space": {"lr": 0.1}}, "'lr'"),
    "low >= high": (lambda: {"search_space": {"lr": Search.uniform(1, 1)}}, "'lr'"),
    "int low >= high": (lambda: {"search_space": {"size": Search.int(3, 2)}}, "'size'"),
    "log of zero": (lambda: {"search_space": {"lr": Search.loguniform(0, 1)}}, "'lr'"),
    "logint of zero": (lambda: {"search_space": {"size": Search.logint(0, 9)}}, "'size'"),
    "no choices": (lambda: {"search_space": {"size": Search.choice([])}}, "'size'"),
    "nan": (lambda: {"search_space": {"lr": Search.uniform(0, float("nan"))}}, "'lr'"),
    "unknown condition": (lambda: {"search_space": {"lr": _LR.when("kind", "sgd")}}, "'kind'"),
    "function lacks it": (lambda: {"trial_template": template(strict), "search_space": {"lr": _LR, "depth": _LR}},
                          "'depth'"),
    "function needs more": (lambda: {"trial_template": template(lambda lr, depth: None)}, "'depth'"),
    "parallel > num": (lambda: {"trial_config": TrialConfig(num_trials=2, parallel_trials=3)}, "parallel_trials"),
    "num_trials 0": (lambda: {"trial_config": TrialConfig(num_trials=0)}, "num_trials"),
    "max_failed -1": (lambda: {"trial_config": TrialConfig(max_failed_trials=-1)}, "max_failed_trials"),
    "trial_config is a dict": (lambda: {"trial_config": {"num_trials": 2}}, "trial_config"),
    "stop is a number": (lambda: {"stop": 0.1}, "stop"),
    "timeout 0": (lambda: {"stop": StopRules(timeout=0)}, "timeout"),
    "grid over continuous": (lambda: {"algorithm": GridSearch()}, "'lr'"),
    "algorithm is a class": (lambda: {"algorithm": TPE}, "TPE"),
    "algorithm is a text": (lambda: {"algorithm": "tpe"}, "'tpe'"),
    "falsy algorithm": (lambda: {"algorithm": ""}, "''"),
    "early_stopping is a text": (lambda: {"early_stopping": "asha"}, "'asha'"),
    "no objective": (lambda: {"objectives": []}, "objectives"),
    "objective twice": (lambda: {"objectives": [Objective("loss"), Objective("loss", "maximize")]}, "loss"),
    "objectives of texts": (lambda: {"objectives": ["loss"]}, "objectives"),
    "objectives is a text": (lambda: {"objectives": "loss"}, "objectives"),
    "objectives is one": (lambda: {"objectives": Objective("loss")}, "objectives"),
    "bad direction": (lambda: {"objectives": [Objective("loss", "down")]}, "direction"),
    "several with a rule": (lambda: {"objectives": [Objective("a"), Objective("b")], "early_stopping": ASHA()}, "ASHA"),
    "several with one": (lambda: {"objectives": [Objective("a"), Objective("b")], "algorithm": CmaEs()},
                         "CmaEs"),
    "enqueue unknown": (lambda: {"enqueue": [{"depth": 1}]}, "'depth'"),
    "enqueue impossible": (lambda: {"enqueue": [{"lr": 2.0}]}, "'lr'"),
    "enqueue is a point": (lambda: {"enqueue": {"lr": 0.5}}, "enqueue"),
    "enqueue too many": (lambda: {"enqueue": [{"lr": 0.5}] * 11}, "enqueue"),
    "too few trials": (lambda: {"algorithm": PBT(population_size=10)}, "population_size"),
    "too few members": (lambda: {"algorithm": PBT(population_size=2), "trial_config": TrialConfig(9, 3)},
                        "parallel_trials"),
    "too few to begin": (lambda: {"algorithm": PBT(population_size=2), "enqueue": [{"lr": 0.5}] * 3}, "enqueue"),
    "a conditional member": (lambda: {"algorithm": PBT(population_size=2),
                                      "search_space": {"lr": _LR.when("size", 1), "size": Search.int(1, 2)}}, "'lr'"),
    "a member cut short": (lambda: {"algorithm": PBT(population_size=2), "early_stopping": ASHA()}, "ASHA"),
    "no template": (lambda: {"trial_template": train}, "trial_template"),
    "no trainer": (lambda: {"trial_template": TrainJobTemplate(trainer=None)},  # type: ignore[arg-type]
                   "trial_template"),
    "image here": (lambda: {"trial_template": TrainJobTemplate(trainer=CustomTrainerContainer(image="i"))}, "images"),
    "no script": (lambda: {"trial_template": template("nowhere.py")}, "nowhere.py"),
    "arguments of a script": (lambda: {"trial_template": template(__file__, func_args={"a": 1})}, "func_args"),
    "initializer here": (lambda: {"trial_template": template(
        initializer=Initializer(dataset=HuggingFaceDatasetInitializer(storage_uri="hf://a/b")))}, "initializer"),
    "nodes": (lambda: {"trial_template": template(num_nodes=0)}, "num_nodes"),
    "resources": (lambda: {"trial_template": template(resources_per_node={"cpu": "many"})}, "cpu"),
    "name too long": (lambda: {"name": "n" * 60}, "n{60}"),
    "name of odd letters": (lambda: {"name": "My Study"}, "My Study"),
}  # fmt: skip


@pytest.mark.parametrize("case", _BAD)
async def test_a_study_that_cannot_be_is_refused_by_name_and_leaves_nothing(
    case: str, optimizer: AsyncOptimizerClient, home: Path
) -> None:
    make, names = _BAD[case]
    with pytest.raises(InvalidSpecError, match=names):
        await optimizer.optimize(**{"trial_template": template(), "search_space": {"lr": _LR}} | make())
    await nothing_is_there(optimizer, home)


async def test_an_unknown_runtime_is_refused_at_once(optimizer: AsyncOptimizerClient, home: Path) -> None:
    with pytest.raises(RuntimeNotFoundError, match="torch-distributed"):
        await optimizer.optimize(template(runtime="nonsense"), search_space={"lr": _LR})
    await nothing_is_there(optimizer, home)


async def nothing_is_there(optimizer: AsyncOptimizerClient, home: Path) -> None:
    assert await optimizer.list_jobs() == []
    assert await optimizer._trials.list_jobs() == []
    assert not (home / "jobs").exists() or not list((home / "jobs").iterdir())


# -------------------------------------------------------------------- what a trial is given


NOTHING: dict[str, Any] = {
    "objectives": None, "algorithm": None, "config": None, "stopping": None, "rules": None, "enqueued": (),
}  # fmt: skip


def order(func: Any = train, space: Any = None, **trainer: Any) -> Order:
    searched = {"lr": _LR} if space is None else space
    return Order.of(template(func, **trainer), searched, backend=LocalProcessBackendConfig(), **NOTHING)


def given(order: Order, **parameters: Any) -> dict[str, Any]:
    """A trial's arguments, with their types."""
    trainer = order.trainer(parameters)
    assert isinstance(trainer, CustomTrainer)
    args = trainer.func_args
    return {name: (type(value), value) for name, value in (args or {}).items()}


def test_values_have_the_types_of_the_annotations() -> None:
    space = {"lr": Search.choice([1]), "size": Search.choice([2.0]), "name": Search.choice([3]), "any_": _LR}
    told = given(order(space=space), lr=1, size=2.0, name=3, any_=0.5, flag=1)
    assert told == {
        "lr": (float, 1.0),
        "size": (int, 2),
        "name": (str, "3"),
        "any_": (float, 0.5),
        "flag": (bool, True),
    }


def test_annotations_that_are_types_count_as_those_that_are_texts() -> None:
    def func(lr: Any, size: Any) -> None: ...

    func.__annotations__ = {"lr": float, "size": int}
    assert inspect.signature(func).parameters["lr"].annotation is float
    told = given(order(func, {"lr": _LR, "size": Search.int(1, 2)}), lr=1, size=2.0)
    assert told == {"lr": (float, 1.0), "size": (int, 2)}


def test_a_value_that_the_annotation_would_change_goes_as_it_is() -> None:
    assert given(order(space={"size": _LR}), size=0.5) == {"size": (float, 0.5)}
    assert given(order(space={"flag": Search.choice([2])}), flag=2) == {"flag": (int, 2)}
    assert given(order(), lr=None) == {"lr": (type(None), None)}
    assert given(order(space={"size": Search.choice(["many"])}), size="many") == {"size": (str, "many")}


def test_a_text_of_a_number_is_a_number_to_whoever_asked_for_one() -> None:
    space = {"size": Search.choice(["16", "32"]), "lr": Search.choice(["0.1"]), "flag": Search.choice(["no"])}
    told = given(order(space=space), size="16", lr="0.1", flag="no")
    assert told == {"size": (int, 16), "lr": (float, 0.1), "flag": (str, "no")}


def test_a_parameter_comes_instead_of_the_templates_argument_and_the_others_stay() -> None:
    told = given(order(func_args={"lr": "0.01", "size": 3}), lr=0.5)
    assert told == {"lr": (float, 0.5), "size": (int, 3)}


def test_the_environment_has_the_parameters_beside_the_templates_variables() -> None:
    space = {"lr": _LR, "name": Search.choice(["adam"]), "flag": Search.choice([True]), "a.b-c": Search.int(1, 2)}
    made = order(space=space, env={"KEEP": "me"}).trainer({"lr": 0.5, "name": "adam", "flag": True, "a.b-c": 2})
    assert made.env is not None
    assert json.loads(made.env.pop("KFASYNC_PARAMETERS")) == {"lr": 0.5, "name": "adam", "flag": True, "a.b-c": 2}
    assert made.env == {
        "KEEP": "me",
        "KUBEFLOW_TRAINER_OPT_LR": "0.5",
        "KUBEFLOW_TRAINER_OPT_NAME": "adam",
        "KUBEFLOW_TRAINER_OPT_FLAG": "true",
        "KUBEFLOW_TRAINER_OPT_A_B_C": "2",
    }


def test_a_script_is_read_at_once_and_gets_the_parameters_in_its_environment(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('first')")
    made = order(script, num_nodes=2)
    script.write_text("print('second')")
    trainer = made.trainer({"lr": 0.5})
    assert isinstance(trainer, CustomTrainer)
    assert (trainer.func.data, trainer.func_args, trainer.num_nodes) == (b"print('first')", None, 2)  # type: ignore[union-attr]
    assert trainer.env == {"KFASYNC_PARAMETERS": '{"lr": 0.5}', "KUBEFLOW_TRAINER_OPT_LR": "0.5"}
    assert made.what == str(script)


def test_an_image_gets_the_parameters_in_its_environment() -> None:
    template = TrainJobTemplate(trainer=CustomTrainerContainer(image="my/trainer:1", env={"KEEP": "me"}))
    made = Order.of(template, {"lr": _LR}, backend=LocalProcessBackendConfig(), **NOTHING)
    assert made.trainer({"lr": 0.5}).env == {
        "KEEP": "me",
        "KFASYNC_PARAMETERS": '{"lr": 0.5}',
        "KUBEFLOW_TRAINER_OPT_LR": "0.5",
    }
    assert made.what == "my/trainer:1"
