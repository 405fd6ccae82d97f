"""Code written for Kubeflow's SDK, or for builtin errors, catches ours."""

from __future__ import annotations

import pickle

import pytest

from kfasync import errors


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [
        (errors.InvalidSpecError, {ValueError}),
        (errors.UnsupportedError, {ValueError}),
        (errors.RuntimeNotFoundError, {ValueError, RuntimeError}),
        (errors.JobNotFoundError, {ValueError, RuntimeError}),
        (errors.JobExistsError, {ValueError, RuntimeError}),
        (errors.JobFailedError, {RuntimeError}),
        (errors.PlotError, {ValueError}),
        (errors.ResultError, {RuntimeError}),
        (errors.WaitTimeoutError, {TimeoutError}),
        (errors.BackendError, {RuntimeError}),
        (errors.BackendTimeoutError, {RuntimeError, TimeoutError}),
        (errors.MissingExtraError, {ImportError}),
    ],
)
def test_an_error_is_also_the_builtin_that_kubeflow_code_catches(
    error: type[errors.KfasyncError], caught_as: set[type[Exception]]
) -> None:
    kinds = (ValueError, RuntimeError, TimeoutError, ImportError)
    assert {kind for kind in kinds if issubclass(error, kind)} == caught_as


def test_every_error_has_one_root_and_a_place_in_the_drawn_tree() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.KfasyncError)
        assert name in (errors.__doc__ or "")


def test_a_failure_travels_between_processes_with_all_that_it_tells() -> None:
    failed = errors.JobFailedError("a", exit_code=3, node=1, rank=2, exception="E: x", traceback="T", last_lines=["l"])
    again = pickle.loads(pickle.dumps(failed))
    assert (vars(again), str(again)) == (vars(failed), str(failed))


def test_a_missing_extra_says_what_to_install() -> None:
    assert "pip install 'kfasync[docker]'" in str(errors.MissingExtraError("containers", "docker"))
