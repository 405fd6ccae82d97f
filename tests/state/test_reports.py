"""The numbers that many jobs reported, read at once."""

from __future__ import annotations

import math

import pytest

from kfasync.events import JobDeleted, JobStarted
from kfasync.state import Journal, Reported
from tests.state.happenings import event, metric, submitted

pytestmark = pytest.mark.anyio


async def test_reports_are_those_of_the_named_jobs_in_order(journal: Journal) -> None:
    await journal.append([submitted(), submitted("other"), submitted("third"), event(JobStarted)])
    await journal.append([metric(0, step=1.0), metric(0, "other", values={"acc": 0.5, "loss": 2.0})])
    await journal.append([metric(1, values={"loss": 0.5}, step=2.0), metric(0, "third")])
    assert await journal.reports("here", ["demo", "other", "nobody"]) == [
        Reported("demo", 1.0, {"loss": 1.0}),
        Reported("other", None, {"acc": 0.5, "loss": 2.0}),
        Reported("demo", 2.0, {"loss": 0.5}),
    ]
    assert await journal.reports("elsewhere", ["demo"]) == []
    assert await journal.reports("here", []) == []


async def test_a_reported_value_that_is_not_finite_comes_back_as_it_was(journal: Journal) -> None:
    await journal.append([submitted(), metric(0, values={"a": math.nan, "b": math.inf, "c": -math.inf})])
    [(_, _, values, _)] = await journal.reports("here", ["demo"])
    assert math.isnan(values["a"])
    assert (values["b"], values["c"]) == (math.inf, -math.inf)


async def test_a_deleted_job_has_no_reports_and_neither_has_the_next_one_of_its_name(journal: Journal) -> None:
    await journal.append([submitted(), metric(0), event(JobDeleted)])
    assert await journal.reports("here", ["demo"]) == []
    await journal.append([submitted(uid="uid-again")])
    assert await journal.reports("here", ["demo"]) == []
