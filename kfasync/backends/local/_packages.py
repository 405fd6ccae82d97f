"""`packages_to_install` on local processes: which requirements are missing, and environments that have them.

An environment is a virtual environment that also sees the packages of the job's interpreter, so that torch is installed
once. There is one for each distinct set (interpreter, requirements, index URLs), in ``<root>/<digest>``; it is built
beside and renamed in, so what has the final name is whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from kfasync.backends.local import _pipconfig
from kfasync.backends.local._credentials import credentials_in, without_credentials
from kfasync.errors import BackendError, InvalidSpecError

__all__ = ["Environments", "InstallError", "Runner"]

#: Runs a command with exactly this environment, gives each line of its output (stdout and stderr) to the callback and
#: returns the exit code; when it is cancelled, the command is ended first.
Runner = Callable[[Sequence[str], Mapping[str, str], Callable[[str], None]], Awaitable[int]]
Progress = Callable[[str], None]

_LINE_LIMIT = 500
_MESSAGE_LINES = 20
# Where these point, or what they demand, is about the user's own use of the installers, not about an environment.
_FOREIGN = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_WORKING_DIR", "UV_PROJECT"}
_FOREIGN |= {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_USER", "PIP_REQUIREMENT"}


class InstallError(BackendError):
    """The packages of a job can't be installed; the message is the installer's own."""

    reason: ClassVar[str] = "InstallFailed"


@dataclass(frozen=True)
class _Wanted:
    python: str
    requirements: tuple[str, ...]
    index_urls: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, python: str, requirements: Sequence[str], index_urls: Sequence[str]) -> _Wanted:
        # Lazy: `packaging` takes a supervisor's start 75 ms, and most jobs need no packages.
        from kfasync.backends.local._requirements import normalise

        python = os.path.abspath(python)
        requirements = normalise(requirements)
        index_urls = _pipconfig.chosen(index_urls)
        try:
            interpreter = os.stat(python)
        except OSError as error:
            raise InstallError(f"the interpreter {python} is not there: {error.strerror}") from error
        identity = [python, os.path.realpath(python), interpreter.st_mtime_ns, interpreter.st_size]
        sources = [_fingerprint(path) for path in map(_local_path, requirements) if path is not None]
        text = json.dumps([identity, requirements, index_urls, sources])
        return cls(python, requirements, index_urls, hashlib.sha256(text.encode()).hexdigest())


def _local_path(requirement: str) -> Path | None:
    url = requirement.partition("@ ")[2] or requirement
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    from kfasync.backends.local._requirements import PATH

    match = PATH.fullmatch(requirement)
    return Path(match["path"]) if match and requirement.startswith("/") else None


def _fingerprint(path: Path) -> list[tuple[str, int, int]]:
    """What tells that a local project or archive changed; build leftovers and hidden files don't count."""
    if not path.is_dir():
        return [_stamp(path)] if path.exists() else []
    found = []
    for directory, below, files in os.walk(path):
        below[:] = [d for d in below if d not in ("__pycache__", "build", "dist") and not d.endswith(".egg-info")]
        below[:] = [d for d in below if not d.startswith(".")]
        found += [_stamp(Path(directory, file)) for file in files if not file.startswith(".")]
    return sorted(found)


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = path.lstat()
    return str(path), stat.st_size, stat.st_mtime_ns


@dataclass(eq=False)
class _Build:
    """One environment under construction, and who waits for it."""

    askers: list[Progress] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def tell(self, line: str) -> None:
        for asker in list(self.askers):
            asker(line)


class Environments:
    """The package environments of one KFASYNC_HOME; used by its supervisor only.

    Args:
        root: Directory of the environments; made when needed.
        run: Runs the installers; the supervisor's own, because it reaps every child.
        keep: How many environments `collect` leaves.
    """

    def __init__(self, root: Path, run: Runner, keep: int) -> None:
        self._root = root
        self._run = run
        self._keep = keep
        self._builds: dict[str, _Build] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_construction: set[str] = set()

    async def ensure(
        self,
        python: str,
        requirements: Sequence[str],
        index_urls: Sequence[str],
        environ: Mapping[str, str],
        progress: Progress,
    ) -> Path:
        """Give the environment for this set; it is built if there is none, once for all who ask meanwhile.

        Args:
            python: The job's interpreter.
            requirements: pip requirements; paths are absolute (see `normalise`).
            index_urls: Package indexes, the first one primary. None, or only PyPI: pip's configuration decides.
            environ: The job's environment; pip's and uv's variables in it count.
            progress: Gets the requirements when they have to be installed, then each line of the installer's output,
                free of credentials.

        Returns:
            The environment's interpreter.

        Raises:
            InstallError: The installer failed; the message has its last lines.
            InvalidSpecError: A requirement is malformed.
        """
        wanted = await asyncio.to_thread(_Wanted.of, python, requirements, index_urls)
        home = self._root / wanted.digest
        if not home.exists():
            await self._join(wanted, dict(environ), progress)
        # From here to the caller's next statement nothing else runs, so `collect` can't remove it in between.
        os.utime(home)
        return home / "bin" / "python"

    async def _join(self, wanted: _Wanted, environ: dict[str, str], progress: Progress) -> None:
        build = self._builds.get(wanted.digest)
        if build is None:
            build = self._builds[wanted.digest] = _Build()
            build.task = asyncio.get_running_loop().create_task(self._make(wanted, environ, build.tell))
            self._tasks.add(build.task)
            build.task.add_done_callback(self._tasks.discard)
        assert build.task is not None
        build.askers.append(progress)
        progress(", ".join(map(without_credentials, wanted.requirements)))
        try:
            await asyncio.shield(build.task)
        finally:
            build.askers.remove(progress)
            if not build.askers:
                # Forgotten before it ends: who asks now gets a build of their own, not one that is being cancelled.
                if self._builds.get(wanted.digest) is build:
                    del self._builds[wanted.digest]
                build.task.cancel()
                await asyncio.wait([build.task])

    async def aclose(self) -> None:
        """End the builds that are under way; who waits for them is cancelled."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def collect(self, in_use: Collection[Path]) -> None:
        """Remove the least recently used environments beyond the limit, and what crashes left behind.

        Args:
            in_use: Interpreters (as `ensure` gave them) or environment directories that running jobs need.
        """
        needed = {parent for path in in_use for parent in (path, *path.parents)}
        homes = [path for path in self._root.glob("[!.]*") if path.is_dir()]
        homes.sort(key=lambda home: home.stat().st_mtime, reverse=True)
        for home in homes[self._keep :]:
            if home not in needed and home.name not in self._builds:
                home.rename(self._root / f".{home.name}-removed-{secrets.token_hex(4)}")
        await asyncio.to_thread(self._clear)

    def _clear(self) -> None:
        """Remove unfinished and discarded environments that are nobody's work in progress."""
        for path in self._root.glob(".*"):
            if path.name not in self._under_construction:
                shutil.rmtree(path, ignore_errors=True)

    async def _make(self, wanted: _Wanted, environ: dict[str, str], tell: Progress) -> None:
        home = self._root / wanted.digest
        site = self._root / f".{wanted.digest}-{secrets.token_hex(4)}"
        self._under_construction.add(site.name)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            await asyncio.to_thread(self._clear)
            site.mkdir(mode=0o700)
            await self._install(wanted, site, environ, tell)
            await asyncio.to_thread(_finish, site, home)
        finally:
            self._under_construction.discard(site.name)
            if site.exists():
                await asyncio.to_thread(shutil.rmtree, site, ignore_errors=True)

    async def _install(self, wanted: _Wanted, site: Path, environ: dict[str, str], tell: Progress) -> None:
        environ = {key: value for key, value in environ.items() if key not in _FOREIGN}
        try:
            options = await asyncio.to_thread(_pipconfig.read, environ, Path(wanted.python).parent.parent)
        except InvalidSpecError as error:
            raise InstallError(str(error)) from error
        known = credentials_in([*wanted.requirements, *wanted.index_urls, *options.values(), *environ.values()])
        installer = _Installer(self._run, ", ".join(wanted.requirements), known)
        search = os.pathsep.join([os.path.dirname(wanted.python), environ.get("PATH", os.defpath)])
        script = os.path.join(os.path.dirname(__file__), "_inherit.py")
        command = [wanted.python, "-P", script, str(site), shutil.which("uv", path=search) or ""]
        uv = (await installer.step(command, environ, lambda line: None))[-1]
        # By file, because every user of the machine can read a command line and a requirement's URL may hold a token.
        listed = site / "requirements.txt"
        listed.write_text("".join(f"{requirement}\n" for requirement in wanted.requirements), encoding="utf-8")
        python = str(site / "bin" / "python")
        if uv == "pip":
            command = [python, "-m", "pip", "install", "-r", str(listed)]
            environ = _pipconfig.for_pip(environ, wanted.index_urls)
        else:
            environ, arguments = _pipconfig.for_uv(environ, options, wanted.index_urls)
            command = [uv, "pip", "install", "--python", python, *arguments, "-r", str(listed)]
        await installer.step(command, environ, tell)
        listed.unlink()


@dataclass(frozen=True)
class _Installer:
    """Runs the steps of one installation, and keeps credentials out of what they print."""

    run: Runner
    names: str
    known: Collection[str]

    async def step(self, command: Sequence[str], environ: Mapping[str, str], tell: Progress) -> list[str]:
        lines: deque[str] = deque(maxlen=200)

        def receive(line: str) -> None:
            # Hidden before it is cut: half a URL would not be recognised.
            line = without_credentials(line.rstrip(), self.known)[:_LINE_LIMIT]
            if line:
                lines.append(line)
                tell(line)

        try:
            code = await self.run(command, environ, receive)
        except OSError as error:
            raise InstallError(f"{command[0]} can't be run: {error.strerror}") from error
        if code != 0:
            names = without_credentials(self.names, self.known)[:_LINE_LIMIT]
            raise InstallError(f"installing {names} failed with exit code {code}:\n" + "\n".join(_telling(list(lines))))
        return list(lines)


def _telling(lines: list[str]) -> list[str]:
    """The lines that say what went wrong: from the installer's first error on, else the last ones."""
    starts = [
        i for i, line in enumerate(lines) if line.lstrip().lower().startswith(("error", "\N{MULTIPLICATION SIGN}"))
    ]
    return [line for line in lines[starts[0] if starts else 0 :] if not line.startswith("[notice]")][-_MESSAGE_LINES:]


def _finish(site: Path, home: Path) -> None:
    """Turn the finished building site into the environment."""
    # Lazy: that program's own imports are slow.
    from kfasync.backends.local._inherit import STAND_IN

    for installer in site.glob("lib/python*/site-packages/*.dist-info/INSTALLER"):
        if installer.read_text(encoding="utf-8", errors="replace") == STAND_IN:
            shutil.rmtree(installer.parent)
    # Scripts name their interpreter by its absolute path.
    for path in [*site.glob("bin/*"), site / "pyvenv.cfg"]:
        if path.is_file() and not path.is_symlink() and os.fsencode(site) in (content := path.read_bytes()):
            path.write_bytes(content.replace(os.fsencode(site), os.fsencode(home)))
    site.rename(home)
