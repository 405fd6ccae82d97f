from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.payload import from_function, from_script, none


def test_a_script_travels_with_its_bytes_arguments_and_directory(tmp_path: Path) -> None:
    script = tmp_path / "train it.py"
    script.write_text("import wave\nprint('$HOME')\n")
    payload = from_script(script, ["--lr", "$(x)\n"])
    assert (payload.kind, payload.name, payload.filename) == ("script", str(script), str(script))
    assert payload.data == script.read_bytes()
    assert payload.argv == ("--lr", "$(x)\n")
    assert payload.path[0] == str(tmp_path)
    assert payload.imports == {"wave"}


def test_a_relative_script_is_looked_for_in_the_callers_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert from_script("train.py").filename == str(tmp_path / "train.py")


def test_imports_of_a_script_are_followed_through_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def f():\n    import first\n")
    (tmp_path / "first.py").write_text("from package import thing\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from .inner import *\n")
    (tmp_path / "package" / "inner.py").write_text("import torch.nn as nn, first\n")
    assert from_script(tmp_path / "train.py").imports == {"first", "package", "torch"}


@pytest.mark.parametrize("text", ["def (", "\0", "x = '\\N{no such}'", "\xff"])
def test_a_script_that_does_not_parse_is_still_a_payload(tmp_path: Path, text: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(text)
    assert from_script(script).imports == frozenset()


def test_a_script_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match=r"nowhere\.py.*No such file"):
        from_script(tmp_path / "nowhere.py")
    with pytest.raises(InvalidSpecError, match="Is a directory"):
        from_script(tmp_path)


@pytest.mark.parametrize("args", ["--lr 1", [1], [None], ["a\0b"]])
def test_arguments_of_a_script_are_strings(tmp_path: Path, args: Any) -> None:
    (tmp_path / "train.py").write_text("")
    with pytest.raises(InvalidSpecError, match="args of a script"):
        from_script(tmp_path / "train.py", args)


def test_the_digest_of_a_script_is_that_of_its_content(tmp_path: Path) -> None:
    def digest(folder: str, text: str, *args: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "train.py").write_text(text)
        return from_script(tmp_path / folder / "train.py", args).digest

    assert digest("a", "x", "1") == digest("b", "x", "1")
    assert (
        len(
            {
                digest("a", "x", "1"),
                digest("a", "y", "1"),
                digest("a", "x", "2"),
                digest("a", "x"),
                digest("a", "x", "", "1"),
            }
        )
        == 5
    )


def test_no_payload_has_a_digest_too() -> None:
    assert none().kind == "none"
    assert none().digest == none().digest != from_function(lambda: 1).digest


def test_a_payload_is_plain_data() -> None:
    payload = from_function(lambda n: n, {"n": 1})
    assert pickle.loads(pickle.dumps(payload)) == payload
    assert pickle.loads(payload.data)[1] == {"n": 1}
