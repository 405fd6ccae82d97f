"""Credentials in the URLs of packages and indexes: found, and kept out of what a person may see."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from urllib.parse import unquote

__all__ = ["credentials_in", "without_credentials"]

_USERINFO = re.compile(r"://([^\s/'\"]*)@")
_QUERY = re.compile(r"(://[^\s?'\"]+\?)[^\s'\"]+")


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


def credentials_in(texts: Sequence[str]) -> list[str]:
    """Passwords and tokens in URLs, as written and decoded: an installer may print them without their URL."""
    found: set[str] = set()
    for text in texts:
        for user_info in _USERINFO.findall(text):
            user, _, password = user_info.partition(":")
            found |= {password or user, unquote(password or user)}
    # A very short one can't be told from ordinary text; within a URL it is hidden all the same.
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)
