"""examples/service.py behind a real server and a real client, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

SERVICE = Path(__file__).parents[2] / "examples" / "service.py"

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KFASYNC_HOME", str(tmp_path / "home"))
    yield
    subprocess.run([sys.executable, "-m", "kfasync.cli", "supervisor", "stop"], check=True)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[httpx.AsyncClient]:
    """The example's application on a free port."""
    spec = importlib.util.spec_from_file_location("service_example", SERVICE)
    assert spec is not None
    assert spec.loader is not None
    # As a script's module it can't be imported by a job: its functions must travel by value.
    module = importlib.util.module_from_spec(spec)
    sys.modules["service_example"] = module
    spec.loader.exec_module(module)
    started = asyncio.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(module.app, log_level="warning", lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listener]))
            await started.wait()
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield client
            server.should_exit = True
    del sys.modules["service_example"]


async def read_events(client: httpx.AsyncClient, name: str, last: str = "0") -> list[tuple[str, str, dict[str, Any]]]:
    """The stream's events until it ends, as (id, type, data)."""
    found = []
    async with client.stream("GET", f"/jobs/{name}/events", headers={"Last-Event-ID": last}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line:
                key, _, value = line.partition(": ")
                fields[key] = value
            else:
                found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


async def test_a_job_is_submitted_and_its_events_stream_until_its_end() -> None:
    async with served() as client:
        answer = await client.post("/jobs", json={"epochs": 3, "name": "served"})
        assert (answer.status_code, answer.json()) == (201, {"name": "served"})
        events = await read_events(client, "served")
        kinds = [kind for _, kind, _ in events]
        assert (kinds[0], kinds[-1]) == ("JobSubmitted", "JobCompleted")
        assert (await client.get("/jobs")).json() == [{"name": "served", "status": "Complete"}]


async def test_a_browser_that_reconnects_gets_only_what_it_has_not_seen() -> None:
    async with served() as client:
        await client.post("/jobs", json={"name": "again"})
        events = await read_events(client, "again")
        assert await read_events(client, "again", last=events[1][0]) == events[2:]


async def test_wrong_requests_are_refused_with_the_reason() -> None:
    async with served() as client:
        assert (await client.get("/jobs/nothing/events")).status_code == 404
        assert (await client.post("/jobs", content="{}")).status_code == 415
        refused = await client.post("/jobs", json={"name": "Not Valid"})
        assert refused.status_code == 422
        assert "Not Valid" in refused.json()["error"]
        await client.post("/jobs", json={"name": "taken", "epochs": 1})
        assert (await client.post("/jobs", json={"name": "taken", "epochs": 2})).status_code == 409
