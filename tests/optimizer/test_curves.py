"""Curves from what jobs reported."""

from __future__ import annotations

import math

from kfasync.optimizer._curves import curves_of
from kfasync.state import Reported


def test_reports_without_steps_count_up_for_each_job_and_metric() -> None:
    reports = [Reported("a", None, {"loss": 3.0}), Reported("b", None, {"loss": 5.0, "acc": 0.5})]
    reports += [Reported("a", None, {"loss": 2.0}), Reported("b", None, {"acc": 0.75})]
    assert curves_of(reports) == {
        "a": {"loss": [(0.0, 3.0), (1.0, 2.0)]},
        "b": {"loss": [(0.0, 5.0)], "acc": [(0.0, 0.5), (1.0, 0.75)]},
    }


def test_the_last_value_at_a_step_counts_and_steps_ascend() -> None:
    reports = [Reported("a", step, {"loss": value}) for step, value in ((2, 1.0), (1, 2.0), (2, 3.0))]
    assert curves_of(reports) == {"a": {"loss": [(1.0, 2.0), (2.0, 3.0)]}}


def test_a_step_that_is_no_number_is_passed_over_and_a_value_that_is_none_stays() -> None:
    reports = [Reported("a", math.nan, {"loss": 1.0}), Reported("a", math.inf, {"loss": 1.0})]
    found = curves_of([*reports, Reported("a", 0.5, {"loss": math.inf})])
    assert found == {"a": {"loss": [(0.5, math.inf)]}}
