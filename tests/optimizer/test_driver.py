"""Where a study's driver comes from, and what it keeps others waiting for."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from kfasync.optimizer import TPE, AsyncOptimizerClient, TrialConfig
from tests.backends.local.conftest import supervisor_status
from tests.optimizer.functions import square
from tests.optimizer.studies import X, finished, template

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def zygotes(home: Path) -> set[tuple[str, ...]]:
    """What each zygote was told to load."""
    told = (await supervisor_status(home))["zygotes"]
    assert isinstance(told, list)
    lines = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in told]
    return {tuple(line[3:-1]) for line in lines}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_driver_and_trials_are_forked_from_zygotes_of_their_own(own_home: Path) -> None:
    async with AsyncOptimizerClient() as client:
        name = await client.optimize(template(square), search_space=X, trial_config=TrialConfig(1))
        assert (await finished(client, name)).status == "Complete"
        assert await zygotes(own_home) == {("kfasync.optimizer._driver",), ()}


async def test_the_trials_zygote_starts_with_the_study_and_not_with_the_first_trial(own_home: Path) -> None:
    async with AsyncOptimizerClient() as client:
        await client.optimize(template(wait_with_torch), search_space=X, trial_config=TrialConfig(1), name="torch")
        assert await zygotes(own_home) == {("kfasync.optimizer._driver",), ("torch",)}
        await client.delete_job("torch")


def wait_with_torch(x: float) -> None:
    import torch

    print(f"loss={torch.tensor(x)}")


async def test_an_algorithm_of_optunas_is_told_of_each_end_before_it_is_asked_again(own_home: Path) -> None:
    """One at a time, two studies with one seed are one: what was recorded and decided at once changed no order."""
    async with AsyncOptimizerClient() as client:
        found = []
        for _ in range(2):
            name = await client.optimize(
                template(square),
                search_space=X,
                trial_config=TrialConfig(14),
                algorithm=TPE(7),
                name=f"seeded-{time.monotonic_ns()}",
            )
            found.append([trial.parameters for trial in (await finished(client, name)).trials])
        assert found[0] == found[1]
