"""What a user can hand to the local place, and what is refused without a trace."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import InvalidSpecError, JobExistsError, KfasyncError, RuntimeNotFoundError, UnsupportedError
from kfasync.jobs import (
    ActiveDeadlineSeconds,
    Annotations,
    BuiltinTrainer,
    HuggingFaceDatasetInitializer,
    Initializer,
    Labels,
    Name,
    TorchTuneConfig,
)
from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio


def take_anything(**given: Any) -> dict[str, Any]:
    return given


def wait_for_ever() -> None:
    import threading

    threading.Event().wait()


def _closure_over_a_socket() -> Callable[[], None]:
    connection = socket.socket()
    connection.close()

    def train() -> None:
        connection.close()

    return train


async def test_hostile_arguments_arrive_byte_for_byte(client: AsyncTrainerClient) -> None:
    given = {
        "quotes": "'\"`",
        "$(id)": "$(touch owned) `id` $HOME ${PATH} \\",
        "lines": "one\r\ntwo\n\tthree\\n",
        "ünï ☃": "\U0001f600 \u202e \ud7ff",
        "long": "x" * 100_000,
        "path": Path("/a b/$c"),
        "self": b"\x00\xff",
    }
    handle = await client.submit(train_func=take_anything, func_args={**given, "nan": float("nan")})
    arrived = await handle.result()
    nan = arrived.pop("nan")
    assert nan != nan
    assert arrived == given


async def test_a_script_runs_with_its_arguments_its_modules_and_a_directory_of_its_own(
    client: AsyncTrainerClient, tmp_path: Path
) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'from the module beside it'\n")
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys, beside\n"
        "print(beside.WORD, sys.argv[1:], os.environ['GREETING'])\n"
        "open('model.txt', 'w').write('weights')\n"
    )
    args = ["--epochs", "3", "$(id) 'q'"]
    handle = await client.submit(script=script, args=args, env={"GREETING": "hello"}, name="scripted")
    await handle.wait(timeout=60)
    assert [line.text async for line in handle.logs()] == [f"from the module beside it {args!r} hello"]
    (model,) = await handle.files()
    assert (model.name, model.read_text()) == ("model.txt", "weights")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["beside.py", "train.py"]


async def test_options_count_on_real_processes(client: AsyncTrainerClient) -> None:
    def team(job_spec: dict[str, Any], trainer: object, backend: object) -> None:
        job_spec["metadata"]["labels"]["team"] = type(backend).__name__

    options = [Name("optional"), Labels({"a": "1"}), Annotations({"b": "2"}), ActiveDeadlineSeconds(1), team]
    name = await client.train(train_func=wait_for_ever, options=options)
    assert name == "optional"
    job = await client.wait_for_job_status(name, {"Failed"}, timeout=60)
    assert (job.labels, job.annotations) == ({"a": "1", "team": "LocalBackend"}, {"b": "2"})
    assert job.reason == "DeadlineExceeded"


async def test_the_packages_of_a_runtime_are_those_of_this_interpreter(
    client: AsyncTrainerClient, capsys: pytest.CaptureFixture[str]
) -> None:
    text = await client.get_runtime_packages(await client.get_runtime("torch-distributed"))
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith("Python: 3.")
    assert f"pytest=={pytest.__version__}" in text.splitlines()


_FUNCTION = {"train_func": take_anything}


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({**_FUNCTION, "runtime": "nonsense"}, RuntimeNotFoundError, "torch-distributed"),
        ({**_FUNCTION, "name": "Under_Score"}, InvalidSpecError, "lower-case letters"),
        ({**_FUNCTION, "name": "x\n"}, InvalidSpecError, "lower-case letters"),
        ({**_FUNCTION, "num_nodes": 0}, InvalidSpecError, "at least 1"),
        ({**_FUNCTION, "num_nodes": -1}, InvalidSpecError, "at least 1"),
        ({**_FUNCTION, "func_args": {"lock": threading.Lock()}}, InvalidSpecError, "'lock'"),
        ({"train_func": _closure_over_a_socket()}, InvalidSpecError, "'connection'"),
        ({**_FUNCTION, "num_node": 2}, InvalidSpecError, "num_nodes"),
        ({"script": "no/such.py"}, InvalidSpecError, "no/such.py"),
        ({**_FUNCTION, "name": "present"}, JobExistsError, "another name"),
        ({**_FUNCTION, "env": {"A": 1}}, InvalidSpecError, "str"),
        ({**_FUNCTION, "env": {"A=B": "1"}}, InvalidSpecError, "A=B"),
        ({**_FUNCTION, "packages_to_install": ["no requirement"]}, InvalidSpecError, "no requirement"),
        (
            {**_FUNCTION, "initializer": Initializer(dataset=HuggingFaceDatasetInitializer("hf://a/b"))},
            UnsupportedError,
            "leave initializer= out",
        ),
        (
            {"trainer": BuiltinTrainer(TorchTuneConfig()), "runtime": "torchtune-llama3.2-1b"},
            UnsupportedError,
            "give a CustomTrainer",
        ),
    ],
)
async def test_bad_input_is_a_typed_error_at_submit_and_leaves_nothing(
    client: AsyncTrainerClient, home: Path, given: dict[str, Any], error: type[KfasyncError], says: str
) -> None:
    await (await client.submit(train_func=take_anything, func_args={"a": 1}, name="present")).wait(timeout=60)
    before = sorted((home / "jobs").iterdir()), [job.name for job in await client.list_jobs()]
    with pytest.raises(error, match=says):
        await client.submit(**given)
    assert (sorted((home / "jobs").iterdir()), [job.name for job in await client.list_jobs()]) == before
