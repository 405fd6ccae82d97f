"""The command, run in this process or as one of its own, on a home that the tests of a module share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kfasync.cli._app import run

SCRIPT = """
import sys, time
print("hello", *sys.argv[1:], flush=True)
print("to stderr", file=sys.stderr, flush=True)
if "block" in sys.argv:
    open(sys.argv[-1]).read()
if "crash" in sys.argv:
    raise ValueError("on purpose")
if "signal" in sys.argv:
    import os
    os.kill(os.getpid(), 9)
sys.exit(7 if "seven" in sys.argv else 0)
"""


@dataclass
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("home")
    yield path
    leave = [sys.executable, "-m", "kfasync.cli", "supervisor", "stop"]
    subprocess.run(leave, env=os.environ | {"KFASYNC_HOME": str(path)}, check=True)


@pytest.fixture(autouse=True)
def home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KFASYNC_HOME", str(shared_home))
    monkeypatch.setenv("KFASYNC_BACKEND", "local")
    return shared_home


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return str(path)


@pytest.fixture
def kf(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe that a ``block`` job reads: it goes on when the test writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def open_gate(path: Path) -> None:
    """Let the job go on; waits until it is there."""
    path.open("w").close()
