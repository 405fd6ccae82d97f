from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kfasync.payload import Payload, from_function, from_script, to_zip


class Bundle:
    """A payload's zip, run by an interpreter that has nothing installed."""

    def __init__(self, directory: Path, payload: Payload) -> None:
        self.directory = directory
        self.file = directory / "payload.zip"
        self.file.write_bytes(to_zip(payload))

    def pretend(self, python: tuple[int, int]) -> None:
        """Make it a bundle of another Python's making."""
        with zipfile.ZipFile(self.file) as old:
            members = {name: old.read(name) for name in old.namelist()}
        meta = json.loads(members["payload/meta.json"])
        members["payload/meta.json"] = json.dumps({**meta, "python": python}).encode()
        members["payload/data"] = b"bytecode of another Python"
        with zipfile.ZipFile(self.file, "w") as new:
            for name, data in members.items():
                new.writestr(name, data)

    def run(self) -> subprocess.CompletedProcess[str]:
        context = self.directory / "ctx.json"
        context.write_text(
            json.dumps({f"{name}_file": str(self.directory / name) for name in ("pid", "exit", "result")})
        )
        # -I and -S: no site-packages, no PYTHONPATH, nothing but the standard library.
        command = [sys.executable, "-I", "-S", str(self.file), str(context)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.directory, env={"PATH": os.environ["PATH"]}
        )

    def value(self) -> Any:
        ended = self.run()
        assert ended.returncode == 0, ended.stderr
        return pickle.loads((self.directory / "result").read_bytes())

    def record(self) -> dict[str, Any]:
        self.run()
        return dict(json.loads((self.directory / "exit").read_text()))


def test_a_closure_runs_from_the_zip_where_nothing_is_installed(tmp_path: Path) -> None:
    base = {"n": 40}
    assert Bundle(tmp_path, from_function(lambda k: base["n"] + k, {"k": 2})).value() == 42


def test_code_in_the_zip_can_report(tmp_path: Path) -> None:
    def train() -> bool:
        import kfasync

        return kfasync.report(loss=1)

    assert Bundle(tmp_path, from_function(train)).value() is False


def test_a_script_runs_from_the_zip_with_the_modules_beside_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "package").mkdir(parents=True)
    (home / "package" / "__init__.py").write_text("from .inner import NAME\n")
    (home / "package" / "inner.py").write_text("NAME = 'inner'\n")
    (home / "beside.py").write_text("import package\nNAME = package.NAME\n")
    (home / "train.py").write_text("import beside, sys; print(beside.NAME, sys.argv[1:], __name__)\n")
    bundle = Bundle(tmp_path, from_script(home / "train.py", ["$(x)"]))
    for file in home.rglob("*.py"):
        file.unlink()
    assert bundle.run().stdout == "inner ['$(x)'] __main__\n"


def standalone(rate: float, *, steps: int = 3) -> tuple[str, float]:
    import os.path

    return os.path.basename(sys.executable), rate * steps


def leans_on_helper() -> str:
    return repr(standalone)


def test_another_python_runs_the_source_where_it_stands_alone(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, from_function(standalone, {"rate": 0.5}))
    bundle.pretend((3, 8))
    assert bundle.value() == (os.path.basename(sys.executable), 1.5)


@pytest.mark.parametrize("func", [leans_on_helper, lambda: 1], ids=["helper", "lambda"])
def test_another_python_without_a_source_names_both_versions(tmp_path: Path, func: Any) -> None:
    bundle = Bundle(tmp_path, from_function(func))
    bundle.pretend((3, 8))
    record = bundle.record()
    assert record["reason"] == "PayloadIncompatible"
    assert "Python 3.8" in record["exception"]
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]} of this job" in record["exception"]


def test_equal_payloads_make_equal_zips() -> None:
    first, second = (to_zip(from_function(standalone, {"rate": 1.0})) for _ in range(2))
    assert first == second


def test_the_zip_holds_nothing_of_kfasync_but_the_worker() -> None:
    import io

    with zipfile.ZipFile(io.BytesIO(to_zip(from_function(standalone, {"rate": 1.0})))) as file:
        ours = {name for name in file.namelist() if name.startswith("kfasync/")}
    assert {name for name in ours if not name.startswith("kfasync/worker/")} == {"kfasync/__init__.py"}


@pytest.mark.parametrize(
    ("source", "alone"),
    [
        ("def f(a, b=1, *, c='x'): return a", True),
        ("async def f(): return os.getpid()", True),
        ("def f(a=[1, {2: 3}]): return len(a)", True),
        ("def f(): return f", True),
        ("def f(a=os.sep): return a", False),
        ("def f(): return OTHER", False),
        ("@staticmethod\ndef f(): pass", False),
        ("f = lambda: 1", False),
    ],
)
def test_only_source_that_means_the_same_elsewhere_stands_alone(tmp_path: Path, source: str, alone: bool) -> None:
    (tmp_path / "m.py").write_text(f"import os\nOTHER = object()\n{source}\n")
    code = (
        "import m; from kfasync.payload._source import standalone_source as s; f = getattr(m.f, '__func__', m.f);"
        "print(s(f) is not None)"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert out.strip() == str(alone)
