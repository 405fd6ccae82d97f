"""A payload as one file that any Python runs: ``python payload.zip ctx.json``."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle

import kfasync
from kfasync.payload._imports import local_closure
from kfasync.payload._payload import Payload

__all__ = ["to_zip"]

_MAIN = b"from kfasync.worker._bundle import main\n\nmain(__loader__)\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal payloads make equal files
_OURS = ("kfasync", "cloudpickle")


def to_zip(payload: Payload) -> bytes:
    """Wrap a payload with everything that runs it but Python itself.

    The worker, a copy of this process's cloudpickle, the script, or the function as pickle and (where it can stand
    alone) as source, and the caller's own modules that it imports.

    Args:
        payload: A function or a script.

    Returns:
        The zip file's bytes.
    """
    members: dict[str, bytes] = {"__main__.py": _MAIN}
    package = Path(kfasync.__file__).parent
    members["kfasync/__init__.py"] = (package / "__init__.py").read_bytes()
    members.update(_python_files(package / "worker", "kfasync/worker"))
    members.update(_python_files(Path(cloudpickle.__file__).parent, "cloudpickle"))
    for name, found in local_closure(payload.imports, payload.path)[1].items():
        if name not in _OURS:
            members.update(_python_files(found, f"local/{name}"))
    members["payload/data"] = payload.data
    members["payload/meta.json"] = json.dumps(_meta(payload), sort_keys=True).encode()
    members.update(_as_source(payload))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED, 1)
    return out.getvalue()


def _meta(payload: Payload) -> dict[str, Any]:
    filename = Path(payload.filename).name
    return {"kind": payload.kind, "filename": filename, "argv": payload.argv, "python": payload.python}


def _as_source(payload: Payload) -> Iterator[tuple[str, bytes]]:
    source = payload.source
    if source is not None:
        func, arguments = vars(payload)["_made_from"]
        yield "payload/source", source.encode()
        yield "payload/name", func.__name__.encode()
        # Protocol 4 is the newest that every Python of ours reads.
        yield "payload/arguments", cloudpickle.dumps(arguments, protocol=4)


def _python_files(found: Path, name: str) -> Iterator[tuple[str, bytes]]:
    if found.is_file():
        yield f"{name}.py", found.read_bytes()
        return
    for file in sorted(found.rglob("*.py")):
        yield f"{name}/{file.relative_to(found).as_posix()}", file.read_bytes()
