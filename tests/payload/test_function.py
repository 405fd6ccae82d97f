from __future__ import annotations

import datetime
import enum
import functools
import math
import os
import pickle
import random
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import InvalidSpecError
from kfasync.payload import from_function
from tests.worker.ranks import Ranks

FACTOR = 3


class Color(enum.Enum):
    RED = "r$"


def triple(n: int) -> int:
    return n * FACTOR


def uses_helper(n: int) -> int:
    return triple(n) + 1


def countdown(n: int) -> int:
    return 0 if n == 0 else 1 + countdown(n - 1)


@pytest.mark.parametrize(
    "value",
    [
        "'\"`$(touch x) $HOME \\ \\\\ %s {} ; & | > < * ? ~ ! #",
        "line\nline\r\n\ttab\0nul\x1b[0m",
        "ünïcödé 你好 🚀 \u202e \ud800",
        "x" * 100_000,
        b"\x00\xff" * 1000,
        [math.inf, -math.inf, -0.0, 1e-323],
        Path("/tmp/a b/$c"),
        datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
        datetime.timedelta(days=1),
        Color.RED,
        {1: {"a": (None, True, {2}, frozenset("a"))}, (1, 2): 2**100},
        complex(1, -2),
        range(5),
        "",
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_arrives_byte_for_byte(ranks: Ranks, value: object) -> None:
    got = ranks.run(lambda value: (repr(value), type(value).__name__, value), value=value).value
    assert got == (repr(value), type(value).__name__, value)


def test_nan_arrives_as_nan(ranks: Ranks) -> None:
    assert ranks.run(lambda x: x != x, x=math.nan).value is True


def test_hostile_argument_names_arrive_too(ranks: Ranks) -> None:
    names = {"a b": 1, "$(x)": 2, "": 3, "ü\n": 4}
    assert ranks.run(from_function(lambda **kwargs: kwargs, names)).value == names


def _decorated(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ("decorated", func("injected", *args, **kwargs))

    return wrapper


class Trainer:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, k: int) -> int:
        return self.n * k

    def fit(self, k: int) -> int:
        return self.n + k

    @classmethod
    def build(cls, k: int) -> str:
        return f"{cls.__name__} {k}"

    @staticmethod
    def plain(k: int) -> int:
        return k


def _callables() -> dict[str, tuple[Callable[..., Any], Any]]:
    seen = [10]

    def nested(k: int) -> int:
        def deeper() -> int:
            return seen[0] + k

        return deeper()

    def recursive(k: int) -> int:
        return 0 if k == 0 else 1 + recursive(k - 1)

    async def coroutine(k: int) -> int:
        return k + seen[0]

    @_decorated
    def decorated(first: str, k: int) -> tuple[str, int]:
        return first, k

    return {
        "lambda": (lambda k: k, 2),
        "closure": (nested, 12),
        "recursive closure": (recursive, 2),
        "coroutine function": (coroutine, 12),
        "decorated": (decorated, ("decorated", ("injected", 2))),
        "partial": (functools.partial(lambda a, k: a + k, 40), 42),
        "instance": (Trainer(5), 10),
        "bound method": (Trainer(5).fit, 7),
        "class method": (Trainer.build, "Trainer 2"),
        "static method": (Trainer.plain, 2),
        "async partial": (functools.partial(coroutine), 12),
    }


@pytest.mark.parametrize("kind", list(_callables()))
def test_any_callable_runs(ranks: Ranks, kind: str) -> None:
    func, expected = _callables()[kind]
    assert ranks.run(from_function(func, {"k": 2})).value == expected


def test_a_class_is_a_callable_too(ranks: Ranks) -> None:
    assert ranks.run(from_function(dict, {"a": 1})).value == {"a": 1}


@pytest.mark.parametrize(("func", "n", "expected"), [(uses_helper, 4, 13), (countdown, 5, 5)])
def test_a_modules_function_finds_its_helpers_and_globals(
    ranks: Ranks, func: Callable[[int], int], n: int, expected: int
) -> None:
    assert ranks.run(func, n=n).value == expected


def test_a_module_that_no_rank_could_import_travels_by_value(ranks: Ranks) -> None:
    module = types.ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = module
    try:
        exec(
            "BASE = 7\ndef helper(n):\n    return BASE + n\ndef train(n):\n    return helper(n) * 2\n", module.__dict__
        )
        payload = from_function(module.train, {"n": 1})
    finally:
        del sys.modules["made_by_hand"]
    assert ranks.run(payload).value == 16


def _program(tmp_path: Path, name: str, text: str) -> bytes:
    path = tmp_path / name
    path.write_text(text)
    return subprocess.run([sys.executable, path], capture_output=True, check=True, cwd="/").stdout


def test_a_function_of_a_script_runs_with_its_globals_classes_and_local_modules(ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "model_code.py").write_text("SIZE = 4\ndef build():\n    return ['layer'] * SIZE\n")
    data = _program(
        tmp_path,
        "caller.py",
        "import json, sys\nimport model_code\nfrom kfasync.payload import from_function\nRATE = 0.5\n"
        "class Config:\n    depth = 2\n"
        "def helper(): return RATE\n"
        "def train(config): return [config.depth, helper(), model_code.build(), __name__]\n"
        "p = from_function(train, {'config': Config()})\n"
        "import pickle; sys.stdout.buffer.write(pickle.dumps(p))\n",
    )
    payload = pickle.loads(data)
    assert str(tmp_path) in payload.path
    assert "model_code" in payload.imports
    assert ranks.run(payload).value == [2, 0.5, ["layer"] * 4, "__main__"]


def test_a_notebooks_function_runs(ranks: Ranks, tmp_path: Path) -> None:
    """Cells are compiled under names that are no files, into a __main__ without __file__."""
    cells = [
        "import math\nlimit = 2",
        "def helper(x):\n    return math.floor(x) * limit",
        "async def train(x):\n    return helper(x)",
    ]
    data = _program(
        tmp_path,
        "kernel.py",
        "import sys\ndel __file__\nfrom kfasync.payload import from_function\nimport pickle\n"
        f"for i, cell in enumerate({cells!r}):\n"
        "    exec(compile(cell, f'/tmp/ipykernel_1/{i}.py', 'exec'), globals())\n"
        "sys.stdout.buffer.write(pickle.dumps(from_function(train, {'x': 2.5})))\n",
    )
    assert ranks.run(pickle.loads(data)).value == 4


@pytest.mark.parametrize(
    ("func", "kwargs", "says"),
    [
        (lambda a: a, None, "missing a required argument: 'a'"),
        (lambda a: a, {"a": 1, "learning_rate": 2}, "unexpected keyword argument 'learning_rate'"),
        (lambda a, /: a, {"a": 1}, "'a'"),
        (lambda: 1, [1], "a dict by name"),
        (lambda **k: k, {1: 2}, "the name 1"),
        ("train.py", None, "must be callable"),
    ],
)
def test_a_call_that_could_not_work_is_refused_at_submit(func: Any, kwargs: Any, says: str) -> None:
    with pytest.raises(InvalidSpecError, match=says):
        from_function(func, kwargs)


def test_an_unpicklable_argument_is_named() -> None:
    with pytest.raises(InvalidSpecError, match=r"argument 'lock' .*_thread\.lock"):
        from_function(lambda fine, lock: 1, {"fine": 1, "lock": threading.Lock()})


def test_an_argument_whose_pickling_raises_is_named() -> None:
    class Broken:
        def __reduce__(self) -> str:
            raise RuntimeError("not today")

    with pytest.raises(InvalidSpecError, match=r"argument 'model' .*not today"):
        from_function(lambda model: 1, {"model": Broken()})


def test_a_closure_over_a_socket_names_the_variable() -> None:
    says = r"variable 'connection' of the enclosing scope: socket\.socket"
    with socket.socket() as connection, pytest.raises(InvalidSpecError, match=says):
        from_function(lambda: connection)


def test_what_a_helper_holds_is_named_too() -> None:
    gate = threading.Lock()

    def helper() -> object:
        return gate

    def train() -> object:
        return helper()

    with pytest.raises(InvalidSpecError, match="variable 'gate'"):
        from_function(train)


def test_an_unpicklable_global_of_a_script_is_named(tmp_path: Path) -> None:
    out = _program(
        tmp_path,
        "caller.py",
        "import threading\nfrom kfasync.payload import from_function\nLOCK = threading.Lock()\n"
        "def train(): return LOCK\n"
        "try:\n    from_function(train)\nexcept ValueError as e:\n    print(e)\n",
    )
    assert b"the global variable 'LOCK'" in out


def test_a_partials_unpicklable_argument_is_named() -> None:
    func = functools.partial(lambda lock, k: k, threading.Lock())
    with pytest.raises(InvalidSpecError, match="partial argument 0"):
        from_function(func, {"k": 1})


def test_the_digest_is_that_of_the_content() -> None:
    def make(n: int) -> Callable[[int], int]:
        return lambda k: k + n

    digest = from_function(make(1), {"k": 1}).digest
    assert digest == from_function(make(1), {"k": 1}).digest
    others = [
        from_function(make(2), {"k": 1}),
        from_function(make(1), {"k": 2}),
        from_function(make(1), {"k": 1.0}),
        from_function(make(1), {"k": "1"}),
        from_function(make(1), {"k": [1]}),
        from_function(make(1), {"k": (1,)}),
        from_function(lambda k: k + 1, {"k": 1}),
    ]
    assert len({digest, *(payload.digest for payload in others)}) == 8


def test_the_digest_covers_helpers_defaults_attributes_and_classes() -> None:
    def make(helper_value: int = 0, default: int = 0, attribute: int = 0, method: int = 0) -> str:
        class Model:
            def size(self) -> int:
                return 1 if method else 0

        def helper() -> int:
            return helper_value

        def train(k: int = default) -> object:
            return helper(), Model()

        train.attribute = attribute  # type: ignore[attr-defined]
        return from_function(train).digest

    assert make() == make()
    changed = [make(helper_value=1), make(default=1), make(attribute=1)]
    assert len({make(), *changed}) == 4
    with_constant = {
        from_function(eval("lambda: type('M', (), {'size': lambda self: 0})")).digest,
        from_function(eval("lambda: type('M', (), {'size': lambda self: 1})")).digest,
    }
    assert len(with_constant) == 2


def test_the_digest_is_the_same_in_every_process_and_place(tmp_path: Path) -> None:
    text = (
        "import enum, random, types\nfrom kfasync.payload import from_function\n"
        "class Kind(enum.Enum):\n    A = 1\n"
        "class Config:\n    def __init__(self): self.tags = {'x', 'y', 'zebra', 'w'}; self.kind = Kind.A\n"
        "def helper(c): return c.tags, {'p', 'q', 'r'}\n"
        "def train(config, names): return helper(config), Kind.A\n"
        "arguments = {'config': Config(), 'names': types.MappingProxyType({'n': frozenset('abcdef')})}\n"
        "print(from_function(train, arguments).digest)\n"
    )
    (tmp_path / "other").mkdir()
    first = _program(tmp_path, "a.py", text)
    assert first == _program(tmp_path, "a.py", text)
    assert first == _program(tmp_path / "other", "b.py", "\n\n# moved\n" + text)


def test_large_data_still_has_a_digest_of_its_content() -> None:
    big = [random.random() for _ in range(50_000)]
    same, other = list(big), [*big[:-1], 2.0]
    digests = [from_function(lambda data: 1, {"data": data}).digest for data in (big, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_imports_are_seen_wherever_the_code_mentions_them() -> None:
    def train() -> None:
        import csv
        from xml.dom import minidom

        def inner() -> object:
            import wave

            return wave, csv, minidom, os

        inner()

    imports = from_function(train).imports
    assert {"csv", "xml", "wave", "os"} <= imports
    assert "torch" not in imports


def test_imports_of_a_local_module_are_seen_through_a_function_of_it(tmp_path: Path) -> None:
    (tmp_path / "mylib.py").write_text("import wave\nfrom decimal import Decimal\ndef train(): return wave, Decimal\n")
    out = _program(
        tmp_path,
        "caller.py",
        "import mylib\nfrom kfasync.payload import from_function\nprint(sorted(from_function(mylib.train).imports))\n",
    )
    assert out.decode().strip() == "['decimal', 'mylib', 'wave']"


def test_imports_in_the_bodies_of_importable_functions_are_seen(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "import functools\n"
        "def logged(func):\n    @functools.wraps(func)\n    def wrapper(*a): return func(*a)\n    return wrapper\n"
        "class Model:\n    def fit(self):\n        import wave\n"
        "def unused():\n    import csv\n"
        "@logged\ndef train():\n    import uuid\n    Model().fit()\n"
    )
    (tmp_path / "job.py").write_text("import models\ndef train(): return models.train()\n")
    out = _program(
        tmp_path,
        "caller.py",
        "import job\nfrom kfasync.payload import from_function\nprint(sorted(from_function(job.train).imports))\n",
    )
    assert out.decode().strip() == "['functools', 'job', 'models', 'uuid', 'wave']"


def test_the_rank_gets_the_callers_own_directories_only(tmp_path: Path) -> None:
    out = _program(
        tmp_path,
        "caller.py",
        "import sys\nfrom kfasync.payload import from_function\nsys.path += ['', '/no/such/directory']\n"
        "print(from_function(lambda: 1).path)\n",
    )
    path = eval(out)
    assert path[0] == str(tmp_path)
    assert "/" in path  # '' is the directory that the caller was in
    assert not [entry for entry in path if "site-packages" in entry or "no/such" in entry]


def test_a_script_that_submits_while_multiprocessing_imports_it_is_stopped(tmp_path: Path) -> None:
    out = _program(
        tmp_path,
        "caller.py",
        "import multiprocessing\nfrom kfasync.payload import from_function\n"
        "def work(): pass\n"
        "if __name__ == '__mp_main__':\n"
        "    try:\n        from_function(work)\n"
        "    except ValueError as e:\n        print('refused:', e, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    p = multiprocessing.get_context('spawn').Process(target=work); p.start(); p.join()\n",
    )
    assert out.startswith(b"refused: ")
    assert b"__name__ == '__main__'" in out


def test_a_small_payload_costs_a_fraction_of_a_start() -> None:
    def train(epochs: int) -> int:
        return triple(epochs)

    def measure() -> float:
        start = time.perf_counter()
        from_function(train, {"epochs": 2})
        return time.perf_counter() - start

    def start() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-S", "-E", "-c", ""], check=True)
        return time.perf_counter() - begin

    # 0.3 ms on an idle machine against 10 ms; both from one moment, since the machine may be busy.
    assert min(measure() for _ in range(20)) < min(start() for _ in range(5))


def test_many_threads_make_payloads_at_once() -> None:
    module = types.ModuleType("made_in_threads")
    sys.modules["made_in_threads"] = module
    exec("def train(n):\n    return n\n", module.__dict__)
    payloads: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: payloads.append(from_function(module.train, {"n": n}))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del sys.modules["made_in_threads"]
    calls = [pickle.loads(payload.data) for payload in payloads]
    assert sorted(func(**kwargs) for func, kwargs in calls) == list(range(8))
