"""What the command prints: data on stdout, messages on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Literal

from kfasync.events import Event, encode

__all__ = [
    "Output",
    "OutputError",
    "age",
    "event_record",
    "event_text",
    "json_line",
    "line",
    "message",
    "plain",
    "table",
]

Output = Literal["text", "json"]


class OutputError(Exception):
    """Our output has nowhere to go: a full disk, a closed stdout."""


def line(text: str) -> None:
    """One line of data, at once: a reader behind a pipe follows it live."""
    # None: the shell closed it (`>&-`).
    if sys.stdout is None:
        raise OutputError("stdout is closed")
    # A log may hold lone surrogates or what the terminal's encoding lacks; losing a character beats losing the stream.
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"stdout can't be written: {error.strerror}") from error


def message(text: str) -> None:
    """A line for a person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def json_line(value: object) -> None:
    """One JSON document on one line; nan and inf are written as strings, since JSON has none."""
    line(json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace").decode())


def plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; the last one may be as long as it likes."""
    everything = [head, *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
    for row in everything:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def age(created: datetime) -> str:
    """How long ago, in its largest unit: ``42s``, ``7m``, ``3h``, ``12d``."""
    seconds = max(0, int(time.time() - created.timestamp()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def event_record(event: Event) -> dict[str, Any]:
    """An event as one flat JSON object: its type, the header fields and its own."""
    kind, body = encode(event)
    header = {key: getattr(event, key) for key in ("cursor", "place", "job", "uid", "attempt", "time")}
    return {"type": kind, **header, **body}


def event_text(event: Event) -> str:
    """An event as one line for a person."""
    kind, body = encode(event)
    for long in ("spec", "digest"):
        body.pop(long, None)
    if "ranks" in body:
        body["ranks"] = len(body["ranks"])
    told = " ".join(f"{key}={_short(value)}" for key, value in body.items() if value not in (None, "", [], {}))
    when = datetime.fromtimestamp(event.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{event.cursor:>6}  {when}  {event.job}  {kind}  {told}".rstrip()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"
