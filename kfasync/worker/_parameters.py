"""The hyperparameters of a trial, as its training code reads them."""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["PARAMETERS", "PREFIX", "get_hyperparameters"]

#: The variable with all of a trial's parameters: a JSON object, by their own names, in their own types.
PARAMETERS = "KFASYNC_PARAMETERS"
#: What the variables begin with that Kubeflow's OptimizationJob gives a trial: one text each, the name in capitals.
PREFIX = "KUBEFLOW_TRAINER_OPT_"


def get_hyperparameters() -> dict[str, Any]:
    """The hyperparameters of the trial that this process is a part of.

    Works in a function, a script or a container's own command alike. Where Kubeflow's controller started the trial
    there are its variables only, so names come in small letters, and what reads as a number or as true, false or null
    is one.

    Returns:
        Values by name, typed: None, bool, int, float or str; empty outside of a trial.

    Example:
        >>> get_hyperparameters()
        {}
    """
    told = os.environ.get(PARAMETERS)
    if told is not None:
        parameters: dict[str, Any] = json.loads(told)
        return parameters
    return {
        name.removeprefix(PREFIX).lower(): _value(text) for name, text in os.environ.items() if name.startswith(PREFIX)
    }


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    # A choice may be any text: one that happens to be a list in JSON, or "a number" in quotes, is a text.
    return value if value is None or isinstance(value, bool | int | float) else text
