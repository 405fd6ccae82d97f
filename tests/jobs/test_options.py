"""Options write into a TrainJob-shaped dict."""

from __future__ import annotations

from typing import Any

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.jobs import (
    ActiveDeadlineSeconds,
    Annotations,
    CustomTrainer,
    CustomTrainerContainer,
    Labels,
    Name,
    Option,
    RuntimePatch,
    TrainerArgs,
    TrainerCommand,
)
from kfasync.jobs._patches import (
    ContainerPatch,
    JobSetSpecPatch,
    JobSetTemplatePatch,
    JobSpecPatch,
    JobTemplatePatch,
    PodSpecPatch,
    PodTemplatePatch,
    ReplicatedJobPatch,
    TrainingRuntimeSpecPatch,
)


def _written(*options: Option) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for option in options:
        option(spec, None, object())
    return spec


def test_metadata_options_gather() -> None:
    written = _written(Name("demo"), Labels({"a": "1"}), Labels({"b": "2"}), Annotations({"note": "x"}))
    assert written == {"metadata": {"name": "demo", "labels": {"a": "1", "b": "2"}, "annotations": {"note": "x"}}}


def test_spec_options_gather() -> None:
    written = _written(ActiveDeadlineSeconds(60), TrainerCommand(["sh"]), TrainerArgs(["-c", "true"]))
    assert written == {"spec": {"activeDeadlineSeconds": 60, "trainer": {"command": ["sh"], "args": ["-c", "true"]}}}


def test_options_leave_the_users_dicts_alone() -> None:
    labels = {"a": "1"}
    _written(Labels(labels), Labels({"b": "2"}))
    assert labels == {"a": "1"}


@pytest.mark.parametrize("seconds", [0, -1, True, 1.5, "60"])
def test_a_deadline_is_a_positive_number_of_whole_seconds(seconds: Any) -> None:
    with pytest.raises(InvalidSpecError, match="at least 1"):
        ActiveDeadlineSeconds(seconds)


@pytest.mark.parametrize("option", [TrainerCommand(["sh"]), TrainerArgs(["x"])])
def test_a_command_is_for_containers_only(option: Option) -> None:
    option({}, CustomTrainerContainer(image="busybox"), object())
    with pytest.raises(InvalidSpecError, match="CustomTrainerContainer"):
        option({}, CustomTrainer(func=print), object())


def _patch(pod: PodSpecPatch) -> RuntimePatch:
    job = JobTemplatePatch(spec=JobSpecPatch(PodTemplatePatch(spec=pod)))
    jobset = JobSetTemplatePatch(metadata={"labels": {}}, spec=JobSetSpecPatch([ReplicatedJobPatch("node", job)]))
    return RuntimePatch(TrainingRuntimeSpecPatch(jobset))


def test_a_patch_has_the_form_of_the_api() -> None:
    mount = {"name": "data", "mountPath": "/data"}
    pod = PodSpecPatch(
        service_account_name="me",
        volumes=[],
        containers=[ContainerPatch("node", volume_mounts=[mount])],
        node_selector={},
        termination_grace_period_seconds=0,
    )
    [patch] = _written(_patch(pod))["spec"]["runtimePatches"]
    assert patch["manager"] == "trainer.kubeflow.org/kubeflow-sdk"
    jobset = patch["trainingRuntimeSpec"]["template"]
    assert jobset["metadata"] == {"labels": {}}
    [job] = jobset["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    assert job["template"]["spec"]["template"]["spec"] == {
        "serviceAccountName": "me",
        "containers": [{"name": "node", "volumeMounts": [mount]}],
        "nodeSelector": {},
        "terminationGracePeriodSeconds": 0,
    }


def test_an_empty_nested_patch_says_nothing() -> None:
    assert _written(RuntimePatch(TrainingRuntimeSpecPatch(JobSetTemplatePatch(spec=JobSetSpecPatch([])))))["spec"] == {
        "runtimePatches": [{"manager": "trainer.kubeflow.org/kubeflow-sdk"}]
    }


@pytest.mark.parametrize(
    "broken",
    [
        {"name": " "},
        {"name": "node", "env": {"A": "1"}},
        {"name": "node", "env": [{"value": "1"}]},
        {"name": "node", "env": [{"name": "A"}]},
        {"name": "node", "env": [{"name": "A", "valueFrom": {"nonsense": {}}}]},
        {"name": "node", "env": [{"name": "A", "valueFrom": "x"}]},
        {"name": "node", "volume_mounts": ["x"]},
        {"name": "node", "volume_mounts": [{"mountPath": "/x"}]},
        {"name": "node", "volume_mounts": [{"name": "x", "mountPath": "x"}]},
    ],
)
def test_a_container_patch_that_the_api_would_refuse_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError):
        ContainerPatch(**broken)


def test_variables_of_a_container_patch_may_come_from_a_secret() -> None:
    source = {"secretKeyRef": {"name": "tokens", "key": "hf"}}
    ContainerPatch("node", env=[{"name": "A", "value": ""}, {"name": "B", "valueFrom": source}])
