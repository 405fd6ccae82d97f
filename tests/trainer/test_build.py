"""From a user's call to a job, or a typed error."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import InvalidSpecError, RuntimeNotFoundError, UnsupportedError
from kfasync.jobs import (
    ActiveDeadlineSeconds,
    Annotations,
    BuiltinTrainer,
    CustomTrainer,
    CustomTrainerContainer,
    HuggingFaceDatasetInitializer,
    Initializer,
    JobSpec,
    Labels,
    Name,
    RestartPolicy,
    RuntimePatch,
    SecretRef,
    TorchTuneConfig,
    TrainerArgs,
    TrainerCommand,
    builtin_runtimes,
)
from kfasync.trainer._build import Call, Plan, TrainKeywords, build

_POSITIONS = ("runtime", "initializer", "trainer", "options")


def _train(**given: Any) -> None:
    """Stands for a training function that takes anything."""


def _plan(**given: Any) -> Plan:
    positions = {key: given.pop(key) for key in _POSITIONS if key in given}
    return build(Call(**positions, keywords=given), builtin_runtimes(), "the backend")


def _spec(**given: Any) -> JobSpec:
    return _plan(**given).spec


def test_a_function_is_enough() -> None:
    plan = _plan(train_func=_train)
    assert (plan.spec.runtime, plan.spec.framework, plan.spec.num_nodes) == ("torch-distributed", "torch", 1)
    assert (plan.spec.entry, plan.spec.entry_name) == ("function", "_train")
    assert plan.payload.kind == "function"
    assert plan.spec.payload_digest == plan.payload.digest
    assert plan.spec.num_proc_per_node is None


def test_the_shorthand_and_the_trainer_make_the_same_job() -> None:
    trainer = CustomTrainer(
        func=_train,
        func_args={"a": 1},
        num_nodes=2,
        packages_to_install=["numpy"],
        resources_per_node={"cpu": 2},
        env={"A": "1"},
    )
    assert _spec(trainer=trainer, name="same") == _spec(
        train_func=_train,
        func_args={"a": 1},
        num_nodes=2,
        packages_to_install=["numpy"],
        resources_per_node={"cpu": 2},
        env={"A": "1"},
        name="same",
    )


def test_every_keyword_reaches_the_spec() -> None:
    spec = _spec(
        name="demo",
        train_func=_train,
        num_nodes=3,
        num_proc_per_node=2,
        packages_to_install=("numpy>=2",),
        pip_index_urls=["https://example.org/simple"],
        resources_per_node={"cpu": "500m", "memory": "1Gi", "gpu": 1},
        env={"A": "1"},
        image="mine",
        labels={"team": "a"},
        annotations={"note": "b"},
        active_deadline=60,
        start_deadline=5.5,
        ttl=3600,
        restart_policy=RestartPolicy(max_restarts=2),
        grace=3,
        strict=True,
    )
    assert (spec.name, spec.num_nodes, spec.num_proc_per_node) == ("demo", 3, 2)
    assert (spec.packages, spec.index_urls, spec.image) == (("numpy>=2",), ("https://example.org/simple",), "mine")
    assert (spec.resources.cpu, spec.resources.memory, spec.resources.gpus) == (0.5, 1 << 30, 1)
    assert (spec.env, spec.labels, spec.annotations) == ({"A": "1"}, {"team": "a"}, {"note": "b"})
    assert (spec.active_deadline, spec.start_deadline, spec.ttl, spec.grace) == (60, 5.5, 3600, 3)
    assert (spec.restart.max_restarts, spec.strict) == (2, True)
    assert not spec.extra


def test_none_means_that_nothing_was_said() -> None:
    nothing = dict.fromkeys(set(TrainKeywords.__annotations__) - {"train_func", "name"})
    assert _spec(train_func=_train, name="demo", **nothing) == _spec(train_func=_train, name="demo")


def test_each_job_gets_a_fresh_name() -> None:
    assert _spec(train_func=_train).name != _spec(train_func=_train).name


def test_a_script_brings_its_arguments(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    plan = _plan(script=script, args=["--data", tmp_path, "a b", "$(x)\n"])
    assert (plan.spec.entry, plan.spec.entry_name) == ("script", str(script))
    assert plan.spec.args == ("--data", str(tmp_path), "a b", "$(x)\n")


def test_a_trainer_may_run_a_script_too(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    plain = _plan(script=script, args=["--fast"], num_nodes=2, env={"A": "b"})
    for path in (script, str(script)):
        plan = _plan(trainer=CustomTrainer(func=path, num_nodes=2, env={"A": "b"}), args=["--fast"])
        assert (plan.payload.data, plan.payload.argv) == (b"print('hello')\n", ("--fast",))
        assert plan.spec.payload_digest == plain.spec.payload_digest
        assert (plan.spec.entry, plan.spec.num_nodes, plan.spec.env) == ("script", 2, plain.spec.env)


def test_hostile_arguments_travel_unchanged() -> None:
    hostile = {"a": "'\"$(rm)\n`x`\\ü", "b": "x" * 100_000, "c": Path("/a b"), "d": float("inf")}
    payload = _plan(train_func=_train, func_args=hostile).payload
    assert pickle.loads(payload.data)[1] == hostile


def test_an_image_brings_its_own_command() -> None:
    trainer = CustomTrainerContainer(image="mine", num_nodes=2, env={"A": "1"})
    spec = _spec(trainer=trainer, options=[TrainerCommand(["sh"]), TrainerArgs(["-c", "true"])])
    assert (spec.entry, spec.image, spec.num_nodes) == ("container", "mine", 2)
    assert (spec.command, spec.args) == (("sh",), ("-c", "true"))


def test_a_runtime_object_gives_what_it_says() -> None:
    runtime = next(r for r in builtin_runtimes() if r.name == "jax-distributed")
    runtime.trainer.num_nodes, runtime.trainer.num_proc_per_node, runtime.trainer.env = 4, 2, {"A": "1", "B": "1"}
    spec = _spec(runtime=runtime, train_func=_train, env={"B": "2"})
    assert (spec.runtime, spec.framework, spec.num_nodes, spec.num_proc_per_node) == ("jax-distributed", "jax", 4, 2)
    assert spec.env == {"A": "1", "B": "2"}


def test_options_write_into_the_spec() -> None:
    options = [Name("demo"), Labels({"a": "1"}), Annotations({"b": "2"}), ActiveDeadlineSeconds(9)]
    spec = _spec(train_func=_train, options=options, labels={"c": "3"}, active_deadline=5)
    assert (spec.name, spec.labels, spec.annotations) == ("demo", {"a": "1", "c": "3"}, {"b": "2"})
    assert spec.active_deadline == 9
    assert not spec.extra


def test_a_users_own_option_is_called_as_kubeflow_does() -> None:
    seen: list[object] = []
    trainer = CustomTrainer(func=_train)

    def prefix(job_spec: dict[str, Any], trainer: object, backend: object) -> None:
        seen.extend([trainer, backend])
        job_spec["metadata"]["name"] = "team-" + job_spec["metadata"]["name"]
        job_spec.setdefault("spec", {})["managedBy"] = "kueue.x-k8s.io/multikueue"

    spec = _spec(trainer=trainer, options=[Name("demo"), prefix])
    assert spec.name == "team-demo"
    assert seen == [trainer, "the backend"]
    assert spec.extra == {"spec": {"managedBy": "kueue.x-k8s.io/multikueue"}}


def test_what_only_some_places_know_is_kept_for_them() -> None:
    spec = _spec(train_func=_train, options=[RuntimePatch()])
    assert spec.extra == {"spec": {"runtimePatches": [{"manager": "trainer.kubeflow.org/kubeflow-sdk"}]}}


def test_without_indexes_pips_own_configuration_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEFAULT_PIP_INDEX_URLS", raising=False)
    assert _spec(trainer=CustomTrainer(func=_train)).index_urls == ()
    assert _spec(trainer=CustomTrainer(func=_train, pip_index_urls=["https://a"])).index_urls == ("https://a",)


def test_secrets_are_resolved_and_never_in_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hush-1")
    (tmp_path / "token").write_text("hush-2\n")
    env = {
        "A": SecretRef(env="MY_TOKEN"),
        "B": SecretRef(file=str(tmp_path / "token")),
        "C": SecretRef(secret="tokens", key="hf"),
        "D": "plain",
    }
    plan = _plan(train_func=_train, env=env)
    assert plan.secrets == {"A": "hush-1", "B": "hush-2"}
    assert plan.spec.env == env
    assert "hush" not in repr(plan) + str(plan.spec.to_dict())


def test_a_secret_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    with pytest.raises(InvalidSpecError, match="'MY_TOKEN' is not set"):
        _plan(train_func=_train, env={"A": SecretRef(env="MY_TOKEN")})
    with pytest.raises(InvalidSpecError, match="can't be read: No such file"):
        _plan(train_func=_train, env={"A": SecretRef(file=str(tmp_path / "absent"))})


@pytest.mark.parametrize("content", [b"hush-\xff", b"hush-\0"])
def test_a_secret_that_no_environment_can_hold_is_refused_unseen(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InvalidSpecError) as caught:
        _plan(train_func=_train, env={"A": SecretRef(file=str(tmp_path / "token"))})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("num_node", "num_nodes"),
        ("trainfunc", "train_func"),
        ("parameters", "func_args"),
        ("num_workers", "num_nodes"),
        ("zzz", "packages_to_install"),
    ],
)
def test_an_unknown_argument_is_told_what_was_meant(wrong: str, right: str) -> None:
    with pytest.raises(InvalidSpecError, match=f"unknown argument '{wrong}'.*{right}"):
        _plan(train_func=_train, **{wrong: 1})


def test_an_unknown_runtime_lists_the_known_ones() -> None:
    with pytest.raises(RuntimeNotFoundError, match=r"'torch'.*torch-distributed"):
        _plan(runtime="torch", train_func=_train)


def _closure_over_a_socket() -> Any:
    connection = socket.socket()
    connection.close()

    def train() -> None:
        connection.close()

    return train


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_func": _train, "name": "My_Job"}, "My_Job"),
        ({"train_func": _train, "name": "x" * 64}, "at most 63"),
        ({"train_func": _train, "num_nodes": 0}, "num_nodes"),
        ({"train_func": _train, "num_nodes": -1}, "num_nodes"),
        ({"train_func": _train, "num_nodes": 2.0}, "num_nodes"),
        ({"train_func": _train, "num_proc_per_node": 0}, "num_proc_per_node"),
        ({"train_func": _train, "env": {"A": 1}}, r"env\['A'\]"),
        ({"train_func": _train, "env": ["A=1"]}, "env must be a dict"),
        ({"train_func": _train, "labels": {"a": 1}}, "labels"),
        ({"train_func": _train, "labels": ["a"]}, "labels must be a dict"),
        ({"train_func": _train, "packages_to_install": "torch"}, "packages_to_install must be a list"),
        ({"train_func": _train, "packages_to_install": [1]}, "packages_to_install must be strings"),
        ({"train_func": _train, "resources_per_node": {"cpu": "many"}}, "cpu"),
        ({"train_func": _train, "resources_per_node": 2}, "resources_per_node must be a dict"),
        ({"train_func": _train, "active_deadline": "60"}, "active_deadline"),
        ({"train_func": _train, "ttl": float("nan")}, "ttl"),
        ({"train_func": _train, "grace": -1}, "grace"),
        ({"train_func": _train, "restart_policy": 3}, "RestartPolicy"),
        ({"train_func": _train, "image": 3}, "image"),
        ({"train_func": _train, "args": ["x"]}, "func_args"),
        ({"train_func": _train, "func_args": ["x"]}, "dict"),
        ({"train_func": _train, "func_args": {"lock": __import__("threading").Lock()}}, "'lock'"),
        ({"train_func": _closure_over_a_socket()}, "connection"),
        ({"train_func": "train"}, "callable"),
        ({"train_func": _train, "script": "train.py"}, "train_func and script"),
        ({"trainer": CustomTrainer(func=_train), "train_func": _train}, "trainer and train_func"),
        ({"trainer": CustomTrainer(func=_train, num_nodes=2), "num_nodes": 3}, "num_nodes is given twice"),
        ({"trainer": "torch"}, "trainer must be"),
        ({"trainer": CustomTrainerContainer(image="")}, "needs an image"),
        ({"trainer": CustomTrainerContainer(image="a"), "packages_to_install": ["b"]}, "packages_to_install"),
        ({"script": "no/such/train.py"}, "no/such/train.py"),
        ({"script": __file__, "func_args": {"a": 1}}, "args="),
        ({"trainer": CustomTrainer(func=__file__, func_args={"a": 1})}, "args="),
        ({"trainer": CustomTrainer(func="no/such/train.py")}, "no/such/train.py"),
        ({"trainer": CustomTrainer(func=__file__), "script": "train.py"}, "trainer and script"),
        ({"script": __file__, "args": "--epochs 3"}, "args must be a list"),
        ({"script": __file__, "args": [3]}, r"use str\("),
        ({"train_func": _train, "options": Name("x")}, "options must be a list"),
        ({"train_func": _train, "options": ["x"]}, "no option"),
        ({"train_func": _train, "options": [lambda s, t, b: s.update(spec=3)]}, "spec"),
        ({"train_func": _train, "options": [lambda s, t, b: s.update(x={1, 2})]}, "JSON"),
        ({"train_func": _train, "options": [TrainerCommand(["sh"])]}, "command"),
        ({"train_func": _train, "runtime": 3}, "runtime must be"),
        ({"train_func": _train, "runtime": "torchtune-llama3.2-1b"}, "takes a BuiltinTrainer"),
        ({"trainer": BuiltinTrainer(TorchTuneConfig()), "runtime": "torch-distributed"}, "takes a CustomTrainer"),
        ({"train_func": _train, "initializer": "hf://a/b"}, "initializer must be"),
    ],
)
def test_bad_input_is_refused_with_the_argument_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpecError, match=message):
        _plan(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"runtime": "torchtune-llama3.2-1b"},
        {"runtime": "torchtune-llama3.2-1b", "trainer": BuiltinTrainer(TorchTuneConfig())},
        {"train_func": _train, "initializer": Initializer(dataset=HuggingFaceDatasetInitializer("hf://a/b"))},
    ],
)
def test_what_this_version_lacks_says_what_to_do_instead(given: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"this version can't run.*: (give|leave)"):
        _plan(**given)


def test_an_empty_initializer_asks_for_nothing() -> None:
    assert _spec(train_func=_train, initializer=Initializer()).entry == "function"
