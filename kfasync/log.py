"""Logging: structlog events onto the standard library's logger ``kfasync``.

The logger has a `logging.NullHandler`: the library never prints by itself. An application that configures the standard
``logging`` sees one line for each event, ``event key=value …``, with the values in ``record.kfasync`` as a mapping.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import structlog

__all__ = ["get"]

logging.getLogger("kfasync").addHandler(logging.NullHandler())


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def _nothing(*args: object, **values: object) -> None:
    """What a method does whose level nobody wants."""


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    name = event.pop("event")
    text = " ".join([str(name), *(f"{key}={value!r}" for key, value in event.items())])
    # A literal % in a value must not be taken for a format: logging only interpolates when there are args.
    return (text,), {"extra": {"kfasync": {"event": name, **event}}}


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger below ``kfasync``.

    Args:
        name: Dotted name below the root logger, such as ``local``.

    Returns:
        A lazy structlog logger; nothing global of structlog is configured.

    Example:
        >>> get("local").info("job_started", job="demo")
    """
    return cast("structlog.stdlib.BoundLogger", _Lazy(name))


class _Lazy:
    """Makes the logger when something is to be logged: structlog takes longer to import than a job to run."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        target = logging.getLogger(f"kfasync.{self._name}")
        level = _LEVELS.get(attribute)
        if level is not None and not target.isEnabledFor(level):
            return _nothing
        import structlog

        logger = structlog.wrap_logger(
            target,
            processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.filter_by_level, _render],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        return getattr(logger, attribute)
