"""How long the driver's loop can't answer while TPE, with 1,000 trials behind it, thinks of the next one."""

from __future__ import annotations

import argparse
import asyncio
import time

from _measure import Figure, main, own_home

CLAIM = "loop blocked while TPE asks at 1,000 trials: at most 20 ms"

# Seconds between two beats; a beat that comes later was held up.
_BEAT = 0.001


async def beating(seconds: float, late: list[float]) -> None:
    """Notes by how many milliseconds each beat is late."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (due := loop.time() + _BEAT) < end:
        await asyncio.sleep(_BEAT)
        late.append((loop.time() - due) * 1e3)


async def ours(trials: int, asks: int) -> list[Figure]:
    from kfasync.optimizer import TPE, AsyncOptimizerClient, Search, TrialConfig
    from kfasync.trainer import LocalProcessBackendConfig

    late: list[float] = []
    asked: list[float] = []
    async with (
        AsyncOptimizerClient(LocalProcessBackendConfig()) as client,
        client.study(
            search_space={"x": Search.uniform(-1, 1), "y": Search.loguniform(1e-4, 1)},
            trial_config=TrialConfig(trials + asks),
            algorithm=TPE(),
        ) as study,
    ):
        while (trial := await study.ask()) is not None:
            if trial.number < trials:
                await study.tell(trial, trial.parameters["x"] ** 2)
                continue
            # This one runs: now the next one is asked for, with a heart beating beside it.
            heart = asyncio.create_task(beating(3600, late))
            begin = time.monotonic()
            following = await study.ask()
            asked.append((time.monotonic() - begin) * 1e3)
            heart.cancel()
            await asyncio.wait([heart])
            await study.tell(trial, trial.parameters["x"] ** 2)
            if following is not None:
                await study.tell(following, following.parameters["x"] ** 2)
    return [
        Figure("kfasync, longest block", [max(late)], note=f"of {len(asked)} asks, a heartbeat of 1 ms beside each"),
        Figure("kfasync, a beat's delay", late),
        Figure("kfasync, an ask", asked, note="in a thread"),
    ]


def optuna_alone(trials: int, asks: int) -> Figure:
    """Optuna's own ask, which blocks the loop that calls it for as long as it takes."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler())
    samples = []
    for number in range(trials + asks):
        begin = time.monotonic()
        trial = study.ask()
        x, _ = trial.suggest_float("x", -1, 1), trial.suggest_float("y", 1e-4, 1, log=True)
        if number >= trials:
            samples.append((time.monotonic() - begin) * 1e3)
        study.tell(trial, x**2)
    return Figure("Optuna alone, an ask on the loop", samples)


def limit() -> Figure:
    late: list[float] = []
    asyncio.run(beating(2, late))
    return Figure("limit: longest delay with nothing to do", [max(late)])


def measure(args: argparse.Namespace) -> list[Figure]:
    with own_home():
        figures = asyncio.run(ours(args.trials, args.asks))
    if args.rivals:
        figures.append(optuna_alone(args.trials, args.asks))
    return [*figures, limit()]


if __name__ == "__main__":
    main(CLAIM, measure, repeats=1, trials=(1000, "trials before"), asks=(60, "asks that are measured"))
