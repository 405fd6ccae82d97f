"""Guarantees 9 and 10: functions, arguments, results, and secrets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from kfasync.errors import InvalidSpecError, ResultError
from kfasync.events import encode
from kfasync.inotify import FileWatch
from kfasync.jobs import SecretRef
from kfasync.testing.conformance import _jobs
from kfasync.testing.conformance._base import ConformanceBase, guarantee, history
from kfasync.testing.conformance._functions import FUNCTIONS, return_a_lock, return_a_lock_but_on_rank_0
from kfasync.trainer import AsyncTrainerClient

__all__ = ["PayloadTests"]

_HOSTILE: dict[str, Any] = {
    "quotes": "'\"`\"'",
    "shell": "$(touch /tmp/owned) ; $HOME && `id` | cat > x \\",
    "lines": "one\ntwo\r\n\tthree\\n",
    "unicode": "naïve \u2603 \U0001f600 \u202e",
    "long": "x" * 100_000,
    "empty": "",
    "number": 3,
    "nested": {"list": [1, 2.5, None, True, {"deep": "value"}]},
}


def _holding(home: Path, secret: bytes) -> list[Path]:
    found = []
    for path in home.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and secret in path.read_bytes():
                found.append(path)
    return found


async def _kept(home: Path, secret: bytes) -> list[Path]:
    """Files that still hold a secret some seconds after the job's end: what a rank needs may go just behind it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5), FileWatch() as watch:
            while found := _holding(home, secret):
                for path in found:
                    with contextlib.suppress(FileNotFoundError):
                        watch.add(path)
                if found == _holding(home, secret):
                    await watch.wait()
    return _holding(home, secret)


class PayloadTests(ConformanceBase):
    """What was given is what runs; what is secret stays so."""

    @guarantee(9, needs=("execution",))
    @pytest.mark.parametrize("kind", sorted(FUNCTIONS))
    async def test_any_kind_of_function_can_train(self, client: AsyncTrainerClient, kind: str) -> None:
        function, expected = FUNCTIONS[kind]
        handle = await client.submit(train_func=function, func_args={"value": 4})
        assert await handle.result() == expected

    @guarantee(9)
    async def test_arguments_arrive_as_they_were_given(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.add, func_args=_HOSTILE)
        result = await handle.result()
        assert result["given"] == _HOSTILE
        assert result["sum"] == 3

    @guarantee(9)
    async def test_a_coroutine_function_is_awaited(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.run_as_coroutine, func_args={"a": 1, "b": 2})
        assert (await handle.result())["sum"] == 3

    @guarantee(9)
    async def test_every_rank_leaves_its_result(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=_jobs.add, func_args={"a": 1}, num_nodes=2, num_proc_per_node=2)
        results = await handle.results()
        assert {rank: value["rank"] for rank, value in results.items()} == {0: 0, 1: 1, 2: 2, 3: 3}
        assert (await handle.result())["rank"] == 0

    @guarantee(9, needs=("execution",))
    async def test_a_result_that_can_not_travel_leaves_the_job_complete(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=return_a_lock)
        with pytest.raises(ResultError):
            await handle.result()
        assert (await handle.state()).status == "Complete"

    @guarantee(9, needs=("execution",))
    async def test_the_result_of_rank_zero_does_not_depend_on_the_others(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(train_func=return_a_lock_but_on_rank_0, num_nodes=2)
        assert await handle.result() == "zero"
        with pytest.raises(ResultError):
            await handle.results()

    @guarantee(9, needs=("files",))
    async def test_the_files_of_each_node_are_found_afterwards(self, client: AsyncTrainerClient) -> None:
        handle = await client.submit(
            train_func=_jobs.write_file, func_args={"name": "model.txt", "text": "weights"}, num_nodes=2
        )
        await handle.wait()
        for node in range(2):
            [model] = [path for path in await handle.files(node) if path.name == "model.txt"]
            assert model.read_text() == "weights"

    @guarantee(9)
    async def test_environment_variables_arrive_as_they_were_given(self, client: AsyncTrainerClient) -> None:
        env = {"PLAIN": "value", "HOSTILE": "$(id) 'q' \"d\" \\ \n ü", "EMPTY": ""}
        handle = await client.submit(train_func=_jobs.read_environment, func_args={"names": [*env, "NOT_SET"]}, env=env)
        assert await handle.result() == {**env, "NOT_SET": None}

    @guarantee(9)
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"func_args": {"the_lock": threading.Lock()}}, "the_lock"),
            ({"func_args": {17: 2}}, "17"),
            ({"num_nodes": 0}, "num_nodes"),
            ({"num_nodes": -1}, "num_nodes"),
            ({"env": {"COUNT": 1}}, "COUNT"),
            ({"resources_per_node": {"cpu": "many"}}, "cpu"),
            ({"no_such_keyword": 1}, "no_such_keyword"),
            ({"runtime": "no-such-runtime"}, "torch-distributed"),
        ],
    )
    async def test_a_call_that_describes_no_job_is_refused_and_leaves_nothing(
        self, client: AsyncTrainerClient, arguments: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(ValueError, match=says):
            await client.submit(**{"train_func": _jobs.add, "name": "refused", **arguments})
        assert "refused" not in [job.name for job in await client.list_jobs()]

    @guarantee(9)
    async def test_a_function_that_does_not_take_its_arguments_is_refused_at_submit(
        self, client: AsyncTrainerClient
    ) -> None:
        with pytest.raises(InvalidSpecError, match="no_such_argument"):
            await client.submit(train_func=_jobs.fail, func_args={"message": "x", "no_such_argument": 1})
        with pytest.raises(InvalidSpecError, match="message"):
            await client.submit(train_func=_jobs.fail)

    @guarantee(10)
    async def test_a_secret_reaches_the_job_and_nothing_else(
        self, client: AsyncTrainerClient, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = "correct horse battery staple"
        monkeypatch.setenv("THE_SECRET_SOURCE", secret)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        handle = await client.submit(
            train_func=_jobs.check_secret,
            func_args={"name": "TOKEN", "digest": digest},
            env={"TOKEN": SecretRef(env="THE_SECRET_SOURCE")},
        )
        assert await handle.result() is True
        state = await handle.state()
        told = [repr(handle), repr(state), str(state.to_dict()), repr(await client.get_job(handle.name))]
        told += [repr(event) + str(encode(event)) for event in await history(client, handle)]
        told += [repr(dataclasses.asdict(view)) for view in await client.get_job_events(handle.name)]
        told += [line.text async for line in handle.logs(None, streams=("stdout", "stderr", "report"))]
        assert not [text for text in told if secret in text]
        assert await _kept(home, secret.encode()) == []
