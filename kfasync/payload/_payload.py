"""The Payload value, and scripts."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kfasync.errors import InvalidSpecError
from kfasync.payload._imports import imports_of_source, local_closure
from kfasync.payload._path import caller_path

__all__ = [
    "Payload",
    "check_not_spawning",
    "digest_of",
    "from_script",
    "none",
    "remember",
]


@dataclass(frozen=True, kw_only=True)
class Payload:
    """Code and arguments, ready to run elsewhere.

    Attributes:
        kind: ``function``, ``script``, or ``none`` where an image brings its own command.
        name: What a person calls it.
        data: The pickle of ``(function, arguments)``, or the script's bytes.
        filename: The script's absolute path.
        argv: The script's arguments.
        path: Directories that the rank puts first on sys.path: where the caller's own modules are.
        imports: Top-level modules that the code mentions, as far as can be seen without running it.
        python: Version whose pickle this is.
        digest: Identity of the content: the same in every process that makes the same payload, where that can be had.
    """

    kind: str
    name: str
    data: bytes = b""
    filename: str = ""
    argv: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    imports: frozenset[str] = frozenset()
    python: tuple[int, int] = (sys.version_info[0], sys.version_info[1])
    digest: str = ""

    def __getstate__(self) -> dict[str, Any]:
        # Elsewhere it is plain data: what it was made from stays in the process that made it.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def source(self) -> str | None:
        """Source of a function that needs nothing but its imports to run, for a Python that can't read the pickle."""
        made: tuple[Callable[..., Any], Any] | None = vars(self).get("_made_from")
        if made is None:
            return None
        from kfasync.payload._source import standalone_source

        return standalone_source(made[0])


def none() -> Payload:
    """The payload of a job whose image brings its own command."""
    return Payload(kind="none", name="", digest=digest_of(b"none"))


def from_script(path: str | os.PathLike[str], args: Sequence[str] = ()) -> Payload:
    """Make a payload of a Python script. Its bytes travel; edits after the submit don't reach the job.

    Args:
        path: The script.
        args: What follows in its sys.argv.

    Raises:
        InvalidSpecError: There is no such file, or an argument is no string.

    Example:
        >>> from_script(__file__, ["--epochs", "3"]).argv
        ('--epochs', '3')
    """
    check_not_spawning()
    script = Path(path).expanduser().absolute()
    if isinstance(args, str) or any(not isinstance(arg, str) for arg in args):
        raise InvalidSpecError(f"args of a script are a list of strings, not {args!r}")
    if any("\0" in arg for arg in args):
        raise InvalidSpecError("args of a script can't contain a NUL character")
    try:
        data = script.read_bytes()
    except OSError as e:
        raise InvalidSpecError(f"the script {str(path)!r} can't be read ({e.strerror}); looked at {script}") from e
    argv = tuple(args)
    folders = tuple(dict.fromkeys((str(script.parent), *caller_path())))
    return Payload(
        kind="script",
        name=str(path),
        data=data,
        filename=str(script),
        argv=argv,
        path=folders,
        imports=frozenset(local_closure(imports_of_source(data), folders)[0]),
        digest=digest_of(b"script", os.fsencode(script.name), data, *map(os.fsencode, argv)),
    )


def check_not_spawning() -> None:
    """Refuse to submit while multiprocessing imports the caller's script into a child.

    Raises:
        InvalidSpecError: The script submits at import; every child of the job would submit again, without end.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise InvalidSpecError(
            "this script submits a job while multiprocessing imports it into a child process: "
            "put the code that submits under `if __name__ == '__main__':`"
        )


def digest_of(*parts: bytes) -> str:
    """One digest over parts that can't run into each other."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(b"%d:" % len(part))
        whole.update(part)
    return whole.hexdigest()


def remember(payload: Payload, func: Callable[..., Any], kwargs: dict[str, Any]) -> Payload:
    """Remember what the payload was made from; only `to_zip` in this process has a use for it."""
    object.__setattr__(payload, "_made_from", (func, kwargs))
    return payload
