"""The built wheel, and what the README and CI promise about it."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import kfasync

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = target.glob("kfasync-*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def test_the_wheel_holds_every_source_file_and_nothing_else(unpacked: Path) -> None:
    def files(root: Path) -> set[str]:
        found = (path for path in (root / "kfasync").rglob("*") if path.is_file())
        return {str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts}

    assert files(unpacked) == files(ROOT)
    assert "kfasync/py.typed" in files(unpacked)
    assert {path.name for path in unpacked.iterdir()} == {"kfasync", f"kfasync-{kfasync.__version__}.dist-info"}


def test_the_metadata_names_version_licence_and_extras(unpacked: Path) -> None:
    info = unpacked / f"kfasync-{kfasync.__version__}.dist-info"
    metadata = Parser().parsestr((info / "METADATA").read_text())
    assert metadata["Version"] == kfasync.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"torch", "docker", "kubernetes"} <= set(metadata.get_all("Provides-Extra") or ())
    assert (info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    scripts = configparser.ConfigParser()
    scripts.read(info / "entry_points.txt")
    assert scripts["console_scripts"]["kfasync"] == "kfasync.cli:main"


def test_the_wheel_alone_imports_and_runs_the_command(unpacked: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(unpacked), "KFASYNC_HOME": str(tmp_path / "home")}
    where = [sys.executable, "-c", "import kfasync.trainer as t; print(t.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(unpacked)
    command = [sys.executable, "-m", "kfasync.cli", "--version"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert shown.strip() == kfasync.__version__


def test_every_subpackage_door_names_only_what_it_has() -> None:
    import importlib

    for init in sorted((ROOT / "kfasync").rglob("__init__.py")):
        module = importlib.import_module(".".join(init.parent.relative_to(ROOT).parts))
        missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
        assert not missing, f"{module.__name__}.__all__ names {missing}"


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"^python3 -m venv .*pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 1
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("\n" + commands[0])


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert f"\n## {kfasync.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_lists_every_setting_with_its_default() -> None:
    from dataclasses import fields

    from kfasync.settings import Settings

    table = dict(re.findall(r"^\| `KFASYNC_(\w+)` \| ([^|]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert [name.lower() for name in table] == [field.name for field in fields(Settings)]
    plain = {name: text.strip("` ") for name, text in table.items() if name not in ("HOME", "BACKEND", "LOG_LIMIT")}
    assert {name: str(getattr(Settings(), name.lower())).removesuffix(".0") for name in plain} == plain


def test_the_readme_s_blocking_example_runs(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    script = tmp_path / "readme.py"
    script.write_text(code)
    environment = os.environ | {"KFASYNC_HOME": str(tmp_path / "home"), "KFASYNC_BACKEND": "local"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    subprocess.run([sys.executable, "-m", "kfasync.cli", "supervisor", "stop"], env=environment, check=True)
    assert (done.returncode, done.stdout.split()) == (0, ["0.1", "0.3333333333333333"]), done.stderr
