"""pip's configuration, read for uv, which ignores it; and what a job's own index URLs change in it.

The rules are those of pip's documentation ("Configuration"): system, user, interpreter, PIP_CONFIG_FILE, each later one
winning; ``[install]`` over ``[global]``; PIP_* variables over all files; empty values count as unset.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kfasync.errors import InvalidSpecError

_DEFAULT_INDEX = "https://pypi.org/simple"
_TRUE = {"1", "true", "t", "yes", "y", "on"}


def chosen(index_urls: Sequence[str]) -> tuple[str, ...]:
    """The job's own index URLs; none where they are just the default, so that pip's configuration decides."""
    urls = tuple(url.rstrip("/") for url in index_urls)
    return () if urls == (_DEFAULT_INDEX,) else urls


def read(environ: Mapping[str, str], prefix: Path) -> dict[str, str]:
    """pip's options for ``install``, by their long names without dashes in front.

    Args:
        environ: Where PIP_*, HOME and XDG_* are looked up.
        prefix: The interpreter's prefix, whose ``pip.conf`` is the site configuration.

    Raises:
        InvalidSpecError: A configuration file can't be understood; the message names it.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for path in _files(environ, prefix):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError) as error:
            # pip would stop here too. The parser's message quotes the line, which may hold a password.
            raise InvalidSpecError(f"pip's configuration file {path} can't be read: {type(error).__name__}") from None
        for name, options in sections.items():
            if parser.has_section(name):
                options.update({_option(key): value for key, value in parser.items(name) if value})
    variables = {_option(key[4:]): value for key, value in environ.items() if key.startswith("PIP_") and value}
    return sections["global"] | sections["install"] | variables


def _option(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")


def _files(environ: Mapping[str, str], prefix: Path) -> Iterator[Path]:
    explicit = environ.get("PIP_CONFIG_FILE", "")
    if explicit == os.devnull:
        return
    home = Path(environ.get("HOME") or Path.home())
    for directory in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)):
        yield Path(directory, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    if not (explicit and os.path.exists(explicit)):
        yield home / ".pip" / "pip.conf"
        yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")
    yield prefix / "pip.conf"
    if explicit:
        yield Path(explicit)


def for_pip(environ: Mapping[str, str], index_urls: Sequence[str]) -> dict[str, str]:
    """The environment in which pip speaks plainly, and prefers the job's index URLs to its configuration."""
    variables = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off"}
    variables |= {"PIP_NO_COLOR": "1", "PIP_USER": "0"}
    if index_urls:
        # An empty value would not override the configuration's extra indexes; naming the primary twice does.
        extra = " ".join(index_urls[1:] or index_urls[:1])
        variables |= {"PIP_INDEX_URL": index_urls[0], "PIP_EXTRA_INDEX_URL": extra, "PIP_NO_INDEX": "0"}
    return {**environ, **variables}


def for_uv(
    environ: Mapping[str, str], options: Mapping[str, str], index_urls: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The environment and the arguments that give uv pip's options and the job's index URLs.

    URLs go by variables, because every user of the machine can read a command line. A variable of uv's own that the
    user set wins over pip's configuration, but not over the job's index URLs.
    """
    found = {key: [os.path.expanduser(word) for word in value.split()] for key, value in options.items()}
    variables = {
        # pip weighs all indexes alike; uv would take whatever the first index that knows the name has.
        "UV_INDEX_STRATEGY": ["unsafe-best-match"],
        "UV_INDEX_URL": found.get("index-url", [])[:1],
        "UV_EXTRA_INDEX_URL": found.get("extra-index-url", []),
        "UV_INSECURE_HOST": found.get("trusted-host", []),
        "UV_CONSTRAINT": found.get("constraint", []),
        "UV_HTTP_TIMEOUT": found.get("timeout", []) or found.get("default-timeout", []),
        "UV_FIND_LINKS": [",".join(found.get("find-links", []))],
        "UV_PRERELEASE": ["allow"] if _is_true(options.get("pre")) else [],
    }
    given = {key: " ".join(words) for key, words in variables.items() if any(words)} | dict(environ)
    if index_urls:
        for key in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
            given.pop(key, None)
        given["UV_INDEX_URL"] = index_urls[0]
        if index_urls[1:]:
            given["UV_EXTRA_INDEX_URL"] = " ".join(index_urls[1:])
    # These mean every program's connections unless pip has a setting of its own, so pip's goes first.
    shared = {"cert": ["SSL_CERT_FILE"], "client-cert": ["SSL_CLIENT_CERT"], "proxy": ["HTTP_PROXY", "HTTPS_PROXY"]}
    for option, names in shared.items():
        if option in options:
            given |= dict.fromkeys(names, os.path.expanduser(options[option]))
    arguments = ["--no-index"] if _is_true(options.get("no-index")) and not index_urls else []
    for option in ("only-binary", "no-binary"):
        arguments += [f"--{option}={name}" for name in options.get(option, "").replace(",", " ").split()]
    return {**given, "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}, arguments


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in _TRUE
