"""What trials of a population do. Imported by every one of them, so it must be light.

Each model is a point that goes down Jaderberg et al.'s surrogate (2017, section 4.1), and its checkpoint says which
jobs have trained it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

START = (0.9, 0.9)
STEPS = 10


def descend(theta: tuple[float, ...], h0: float, h1: float) -> tuple[float, ...]:
    """One trial's training: the hyperparameters say which part of the true gradient is seen."""
    for _ in range(STEPS):
        theta = tuple(x - 0.02 * 2 * h * x for x, h in zip(theta, (h0, h1), strict=True))
    return theta


def loss_of(theta: tuple[float, ...]) -> float:
    return sum(x * x for x in theta)


def load(folder: Path) -> dict[str, Any]:
    import json

    path = folder / "model.json"
    return json.loads(path.read_text()) if path.exists() else {"theta": START, "jobs": []}  # type: ignore[no-any-return]


def _save(model: dict[str, Any]) -> None:
    import json
    import os

    import kfasync

    path = kfasync.checkpoint_dir() / "model.json"
    young = path.with_suffix(".new")
    young.write_text(json.dumps(model))
    os.replace(young, path)


def train(h0: float, h1: float) -> None:
    """Go on from what is there, and say who did."""
    import os

    import kfasync

    model = load(kfasync.checkpoint_dir())
    theta = descend(tuple(model["theta"]), h0, h1)
    _save({"theta": theta, "jobs": [*model["jobs"], os.environ["KFASYNC_JOB_NAME"]]})
    kfasync.report(loss=loss_of(theta))


def train_and_tell(folder: str, h0: float, h1: float) -> None:
    """The same; and one line for each start and each end, in a file of the job's own."""
    import os

    with open(os.path.join(folder, os.environ["KFASYNC_JOB_NAME"]), "a", buffering=1) as file:
        file.write("began\n")
        sum(range(300_000))
        train(h0, h1)
        file.write("ended\n")


def train_by_halves(wait: str, h0: float, h1: float) -> None:
    """The job of a name waits, the first time, when it has saved half of its work."""
    import os
    import signal

    import kfasync

    model = load(kfasync.checkpoint_dir())
    name = os.environ["KFASYNC_JOB_NAME"]
    if name == wait and f"half of {name}" not in model["jobs"]:
        _save({**model, "jobs": [*model["jobs"], f"half of {name}"]})
        print("half", flush=True)
        signal.pause()
    train(h0, h1)


def train_or_fail(h0: float, h1: float) -> None:
    """Fails at the start of a model with a large first parameter."""
    import kfasync

    if h0 > 0.5 and not load(kfasync.checkpoint_dir())["jobs"]:
        raise ValueError("diverged")
    train(h0, h1)


def forget(h0: float, h1: float) -> None:
    """Trains, and saves nothing."""
    import kfasync

    kfasync.report(loss=loss_of(descend(START, h0, h1)))


def train_once_lost(folder: str, h0: float, h1: float) -> None:
    """The first job that goes on from another one waits for ever, half done; those after it end."""
    import os
    import signal

    import kfasync

    model = load(kfasync.checkpoint_dir())
    if model["jobs"]:
        try:
            open(os.path.join(folder, "begun"), "x").close()
        except FileExistsError:
            pass
        else:
            _save({**model, "jobs": [*model["jobs"], "lost"]})
            print("begun", flush=True)
            signal.pause()
    train(h0, h1)


def diverge(h0: float, h1: float) -> None:
    """With a large first parameter the best loss of all comes first, and the worst of all last."""
    import kfasync

    if h0 > 0.5:
        kfasync.report(loss=0.0)
    train(h0, h1)
    if h0 > 0.5:
        kfasync.report(loss=9.0)
