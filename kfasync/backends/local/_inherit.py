"""Makes an empty environment that sees the packages of the interpreter which runs this file.

Run as ``python -P _inherit.py DIRECTORY UV`` by `kfasync.backends.local._packages`, with the job's own interpreter. It
stands alone: standard library only. UV is the path of a uv program, or empty to look for uv in this interpreter. The
last line printed is the installer to use: uv's path, or ``pip``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import site
import sys
import venv
from importlib import metadata
from pathlib import Path

STAND_IN = "kfasync-stand-in"


def find_uv() -> str:
    """Path of the uv that is installed as a package of this interpreter, or nothing."""
    with contextlib.suppress(ImportError, FileNotFoundError):
        return str(importlib.import_module("uv").find_uv_bin())
    return ""


def inherit(packages: Path) -> None:
    """Put this interpreter's site directories behind the environment's own.

    A plain ``include-system-site-packages`` would show the base interpreter's packages, not those of the virtual
    environment that this interpreter may itself be. `site.addsitedir` also honours the ``.pth`` files (editable
    installs) in the inherited directories.
    """
    directories = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        directories = [site.getusersitepackages(), *directories]
    lines = [f"import site; site.addsitedir({directory!a})\n" for directory in directories]
    (packages / "_kfasync_inherited.pth").write_text("".join(lines), encoding="ascii")


def stand_in(packages: Path) -> None:
    """Tell uv what is inherited, by metadata without files; the caller removes what uv left of it.

    pip looks along ``sys.path`` and needs none of this; uv looks into the environment only, and would install a second
    torch for a package that merely depends on it.
    """
    seen: set[str] = set()
    for distribution in metadata.distributions():
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        name = re.sub(r"[-_.]+", "_", name or "").lower()
        if not (text and name and version) or name in seen:
            continue
        seen.add(name)
        directory = packages / f"{name}-{version}.dist-info"
        directory.mkdir()
        files = {"METADATA": text, "INSTALLER": STAND_IN, "WHEEL": distribution.read_text("WHEEL") or ""}
        files["RECORD"] = "".join(f"{directory.name}/{file},,\n" for file in [*files, "RECORD"])
        for file, content in files.items():
            (directory / file).write_text(content, encoding="utf-8", errors="surrogateescape")


def main(directory: Path, uv: str) -> None:
    """Make the environment and say which installer to use."""
    uv = uv or find_uv()
    # The interpreter's own pip, seen through the .pth, saves the seconds that ensurepip takes, and works where a
    # distribution left ensurepip out.
    with_pip = not uv and importlib.util.find_spec("pip") is None
    venv.EnvBuilder(symlinks=True, with_pip=with_pip, prompt="kfasync").create(directory)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = directory / "lib" / version / "site-packages"
    inherit(packages)
    if uv:
        stand_in(packages)
    configuration = os.path.join(sys.prefix, "pip.conf")
    if os.path.exists(configuration):
        shutil.copy2(configuration, directory)
    print(uv or "pip")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
