"""Real ranks for tests: forked from a warm process, or started as a fresh interpreter."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kfasync.worker
from kfasync.payload import Payload, from_function

WORKER = Path(kfasync.worker.__file__).with_name("__main__.py")


@dataclass(frozen=True)
class Ended:
    """What a rank left."""

    code: int
    directory: Path

    def _text(self, name: str) -> str:
        path = self.directory / name
        return path.read_bytes().decode() if path.exists() else ""

    @property
    def stdout(self) -> str:
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        return self._text("stderr")

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads(self._text("exit")))

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text("report").splitlines()]

    @property
    def value(self) -> Any:
        assert self.code == 0, self.stderr
        return pickle.loads((self.directory / "result").read_bytes())


class Ranks:
    """Starts ranks, each in a directory of its own."""

    def __init__(self, root: Path, forker: subprocess.Popen[str]) -> None:
        self._root = root
        self._forker = forker
        self._count = 0
        self._spawned: list[Spawned] = []

    def prepare(self, payload: Payload, env: Mapping[str, str]) -> tuple[Path, dict[str, Any], dict[str, str]]:
        """A directory with the payload, the context, and the environment."""
        self._count += 1
        directory = self._root / f"rank-{self._count}"
        (directory / "work").mkdir(parents=True)
        (directory / "payload").write_bytes(payload.data)
        context: dict[str, Any] = {
            "kind": payload.kind,
            "filename": payload.filename,
            "argv": list(payload.argv),
            "path": list(payload.path),
            "node": 0,
            "rank": 0,
            "local_rank": 0,
            "attempt": 1,
            "job": "job",
            "uid": "uid",
            "private": f"{directory}/",
            "payload": str(directory / "payload"),
            **{f"{name}_file": str(directory / name) for name in ("pid", "exit", "result", "report", "stop")},
        }
        whole = {
            "PATH": os.environ["PATH"],
            "KFASYNC_JOB_NAME": "job",
            "KFASYNC_REPORT_FILE": str(directory / "report"),
            "KFASYNC_STOP_FILE": str(directory / "stop"),
            **env,
        }
        return directory, context, whole

    def run(self, code: Payload | Callable[..., Any], /, env: Mapping[str, str] | None = None, **kwargs: Any) -> Ended:
        """A forked rank, to its end."""
        payload = code if isinstance(code, Payload) else from_function(code, kwargs)
        directory, context, whole = self.prepare(payload, env or {})
        return self.fork(directory, context, whole)

    def fork(self, directory: Path, context: Mapping[str, Any], env: Mapping[str, str]) -> Ended:
        request = {
            "ctx": dict(context),
            "env": dict(env),
            "cwd": str(directory / "work"),
            "stdout": str(directory / "stdout"),
            "stderr": str(directory / "stderr"),
        }
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(json.dumps(request) + "\n")
        self._forker.stdin.flush()
        return Ended(int(self._forker.stdout.readline()), directory)

    def spawn(
        self, code: Payload | Callable[..., Any], /, env: Mapping[str, str] | None = None, **kwargs: Any
    ) -> Spawned:
        """A rank in a fresh interpreter, running."""
        payload = code if isinstance(code, Payload) else from_function(code, kwargs)
        directory, context, whole = self.prepare(payload, env or {})
        (directory / "ctx.json").write_text(json.dumps(context))
        rank = Spawned(directory, [sys.executable, str(WORKER), str(directory / "ctx.json")], whole)
        self._spawned.append(rank)
        return rank

    def close(self) -> None:
        """Leave nothing running behind a test that failed."""
        for rank in self._spawned:
            rank.process.kill()
            rank.process.communicate()


class Spawned:
    """A rank that runs; its stdout is a pipe, so that a test can wait for its word."""

    def __init__(self, directory: Path, command: list[str], env: Mapping[str, str]) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=directory / "work",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def line(self) -> str:
        """Its next line on stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def end(self) -> Ended:
        """Wait for the end."""
        out, err = self.process.communicate()
        (self.directory / "stdout").write_bytes(out)
        (self.directory / "stderr").write_bytes(err)
        return Ended(self.process.returncode, self.directory)


@pytest.fixture(scope="session")
def forker() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.worker.forker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def ranks(tmp_path: Path, forker: subprocess.Popen[str]) -> Iterator[Ranks]:
    made = Ranks(tmp_path, forker)
    yield made
    made.close()
