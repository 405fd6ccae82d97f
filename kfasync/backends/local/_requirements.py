"""What `packages_to_install` asks for, and whether an interpreter has it already. Needed only where there are any."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from kfasync.backends.local._credentials import without_credentials
from kfasync.errors import InvalidSpecError

__all__ = ["PATH", "normalise", "unsatisfied"]

#: A path with its extras, as pip takes it.
PATH = re.compile(r"(?P<path>[^\[\]]+)(?P<extras>\[[^\[\]]*\])?")
_URL = re.compile(r"[a-zA-Z][\w+.-]*://")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz")


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
    match = PATH.fullmatch(text)
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
