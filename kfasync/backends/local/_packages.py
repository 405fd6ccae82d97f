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
import re
import secrets
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from kfasync.backends.local import _pipconfig
from kfasync.backends.local._inherit import STAND_IN
from kfasync.errors import BackendError, InvalidSpecError

__all__ = ["Environments", "InstallError", "Runner", "normalise", "unsatisfied", "without_credentials"]

#: Runs a command with exactly this environment, gives each line of its output (stdout and stderr) to the callback and
#: returns the exit code; when it is cancelled, the command is ended first.
Runner = Callable[[Sequence[str], Mapping[str, str], Callable[[str], None]], Awaitable[int]]
Progress = Callable[[str], None]

_URL = re.compile(r"[a-zA-Z][\w+.-]*://")
_PATH = re.compile(r"(?P<path>[^\[\]]+)(?P<extras>\[[^\[\]]*\])?")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz")
_USERINFO = re.compile(r"://([^\s/'\"]*)@")
_QUERY = re.compile(r"(://[^\s?'\"]+\?)[^\s'\"]+")
_LINE_LIMIT = 500
_MESSAGE_LINES = 20
# Where these point, or what they demand, is about the user's own use of the installers, not about an environment.
_FOREIGN = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_WORKING_DIR", "UV_PROJECT"}
_FOREIGN |= {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_USER", "PIP_REQUIREMENT"}


class InstallError(BackendError):
    """The packages of a job can't be installed; the message is the installer's own."""


def normalise(requirements: Sequence[str]) -> tuple[str, ...]:
    """The set in one canonical form: sorted, each once, paths absolute.

    To be called where the user's working directory is known, that is in the client.

    Args:
        requirements: pip requirements: specifiers, URLs or paths.

    Raises:
        InvalidSpecError: One is no requirement; the message names it.

    Example:
        >>> normalise(["NumPy >=1.26", "rich[jupyter]", "numpy>=1.26"])
        ('numpy>=1.26', 'rich[jupyter]')
    """
    return tuple(sorted({_canonical(text) for text in _checked(requirements)}))


def unsatisfied(requirements: Sequence[str]) -> list[str]:
    """Which requirements this interpreter does not satisfy already.

    Args:
        requirements: pip requirements. Those that name a URL or a path always count as missing: what is installed does
            not tell where it came from.

    Returns:
        The missing ones as `normalise` writes them, in the given order.

    Raises:
        InvalidSpecError: One is no requirement; the message names it.

    Example:
        >>> unsatisfied(["packaging>=23"])
        []
    """
    return list(dict.fromkeys(_canonical(text) for text in _checked(requirements) if not _satisfied(text)))


def _checked(requirements: Sequence[str]) -> Iterator[str]:
    if isinstance(requirements, str):
        raise InvalidSpecError(f"packages_to_install is a list of requirements, not the string {requirements!r}")
    for text in requirements:
        if not isinstance(text, str) or not text.strip() or not text.isprintable() or text.lstrip().startswith("-"):
            shown = without_credentials(repr(text))
            raise InvalidSpecError(
                f"packages_to_install has {shown}, which is no requirement (options are not allowed)"
            )
        yield text.strip()


def _parse(text: str) -> Requirement | None:
    """The requirement, or None for a bare URL or path, which only an installer understands."""
    if _URL.match(text):
        return None
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        if text.startswith((".", "/", "~")) or "/" in text.partition("@")[0] or text.endswith(_ARCHIVES):
            return None
        why = str(error).partition("\n")[0]
        raise InvalidSpecError(
            f"packages_to_install has {without_credentials(text)!r}, which is no requirement: {why}"
        ) from None


def _canonical(text: str) -> str:
    requirement = _parse(text)
    if requirement is not None:
        requirement.name = canonicalize_name(requirement.name)
        return str(requirement)
    if _URL.match(text):
        return text
    match = _PATH.fullmatch(text)
    if match is None:
        raise InvalidSpecError(f"packages_to_install has {text!r}, which is neither a requirement nor a path")
    return os.path.abspath(os.path.expanduser(match["path"])) + (match["extras"] or "")


def _satisfied(text: str) -> bool:
    requirement = _parse(text)
    return requirement is not None and _has(requirement, "", set())


def _has(requirement: Requirement, extra: str, seen: set[tuple[str, str]]) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return True
    if requirement.url is not None:
        return False
    try:
        distribution = metadata.distribution(requirement.name)
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            return False
    except (metadata.PackageNotFoundError, InvalidVersion):
        return False
    return all(_has_extra(distribution, wanted, seen) for wanted in requirement.extras)


def _has_extra(distribution: metadata.Distribution, extra: str, seen: set[tuple[str, str]]) -> bool:
    if (visited := (distribution.metadata["Name"], extra)) in seen:
        return True
    seen.add(visited)
    try:
        needed = [Requirement(text) for text in distribution.requires or ()]
    except InvalidRequirement:
        return False
    # What an extra adds is what its marker asks for only when the extra is wanted; an installed package's other
    # requirements are taken as met, as pip takes them.
    added = [r for r in needed if r.marker is not None and not r.marker.evaluate({"extra": ""})]
    return all(_has(requirement, extra, seen) for requirement in added)


def without_credentials(text: str, known: Collection[str] = ()) -> str:
    """The text without the credentials of its URLs.

    Args:
        text: Anything that a person may see.
        known: Secrets that are hidden wherever they stand.

    Example:
        >>> without_credentials("--index-url https://me:secret@example.org/simple")
        '--index-url https://****@example.org/simple'
    """
    for secret in known:
        text = text.replace(secret, "****")
    return _QUERY.sub(r"\1****", _USERINFO.sub("://****@", text))


def _credentials(texts: Sequence[str]) -> list[str]:
    """Passwords and tokens in URLs, as written and decoded: an installer may print them without their URL."""
    found: set[str] = set()
    for text in texts:
        for user_info in _USERINFO.findall(text):
            user, _, password = user_info.partition(":")
            found |= {password or user, unquote(password or user)}
    # A very short one can't be told from ordinary text; within a URL it is hidden all the same.
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)


@dataclass(frozen=True)
class _Wanted:
    python: str
    requirements: tuple[str, ...]
    index_urls: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, python: str, requirements: Sequence[str], index_urls: Sequence[str]) -> _Wanted:
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
    match = _PATH.fullmatch(requirement)
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
            progress: Gets each line of the installer's output, free of credentials.

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
        known = _credentials([*wanted.requirements, *wanted.index_urls, *options.values(), *environ.values()])
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
    for installer in site.glob("lib/python*/site-packages/*.dist-info/INSTALLER"):
        if installer.read_text(encoding="utf-8", errors="replace") == STAND_IN:
            shutil.rmtree(installer.parent)
    # Scripts name their interpreter by its absolute path.
    for path in [*site.glob("bin/*"), site / "pyvenv.cfg"]:
        if path.is_file() and not path.is_symlink() and os.fsencode(site) in (content := path.read_bytes()):
            path.write_bytes(content.replace(os.fsencode(site), os.fsencode(home)))
    site.rename(home)
