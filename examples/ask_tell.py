"""Bring your own loop: ask a study what to try, run it here, and tell what came of it; kill it and start it again."""

from __future__ import annotations

import asyncio

from kfasync.optimizer import TPE, AskedTrial, AsyncOptimizerClient, MedianStop, Search, TrialConfig
from kfasync.trainer import LocalProcessBackendConfig

SPACE = {"x": Search.uniform(-5, 5), "step": Search.loguniform(0.001, 1)}


async def main() -> None:
    async with (
        AsyncOptimizerClient(LocalProcessBackendConfig()) as client,
        client.study(
            search_space=SPACE,
            algorithm=TPE(random_state=1),
            early_stopping=MedianStop(n_startup_trials=4),
            trial_config=TrialConfig(num_trials=30),
            name="ask-tell",
        ) as study,
    ):

        async def descend(trial: AskedTrial) -> None:
            """Gradient descent on (x - 2)²; the study says when it is not worth going on."""
            x, rate = trial.parameters["x"], trial.parameters["step"]
            for step in range(10):
                x -= rate * 2 * (x - 2)
                if await study.report(trial, step, (x - 2) ** 2):
                    await study.tell(trial, state="pruned")
                    return
            await study.tell(trial, (x - 2) ** 2)

        async def work() -> None:
            while (trial := await study.ask()) is not None:
                await descend(trial)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(work())
        states = [trial.status for trial in study.trials]
        print(f"{states.count('complete')} complete, {states.count('pruned')} pruned, best: {study.best[0]}")


if __name__ == "__main__":
    asyncio.run(main())
