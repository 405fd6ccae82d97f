"""A web service that submits jobs and streams their events to browsers (server-sent events).

Run it with ``python examples/service.py``, then::

    curl -H 'Content-Type: application/json' -d '{"epochs": 5}' http://127.0.0.1:8000/jobs
    curl -N http://127.0.0.1:8000/jobs/NAME/events
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import kfasync
from kfasync.errors import InvalidSpecError, JobExistsError, JobNotFoundError
from kfasync.events import JobCompleted, JobFailed, encode
from kfasync.trainer import AsyncTrainerClient, LocalProcessBackendConfig


def train(epochs: int, pause: float) -> None:
    for epoch in range(1, epochs + 1):
        time.sleep(pause)
        kfasync.report(epoch=epoch, loss=1 / epoch)


async def submit(request: Request) -> Response:
    # A web page of another site can't send this type without asking first.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return JSONResponse({"error": "send application/json"}, 415)
    body = await request.json()
    arguments = {"epochs": int(body.get("epochs", 3)), "pause": float(body.get("pause", 0))}
    job = await request.app.state.client.submit(train_func=train, func_args=arguments, name=body.get("name"))
    return JSONResponse({"name": job.name}, 201)


async def jobs(request: Request) -> Response:
    return JSONResponse([{"name": j.name, "status": j.status} for j in await request.app.state.client.list_jobs()])


async def stream(request: Request) -> Response:
    client: AsyncTrainerClient = request.app.state.client
    name = request.path_params["name"]
    await client.get_job(name)
    # A browser that lost its connection says which event it saw last; the journal goes on behind it.
    since = int(request.headers.get("last-event-id", 0))
    return StreamingResponse(events(client, name, since), media_type="text/event-stream")


async def events(client: AsyncTrainerClient, name: str, since: int) -> AsyncIterator[str]:
    async with contextlib.aclosing(client.events(since, name)) as found:
        async for event in found:
            kind, body = encode(event)
            yield f"id: {event.cursor}\nevent: {kind}\ndata: {json.dumps(body)}\n\n"
            if isinstance(event, JobCompleted | JobFailed):
                return


async def refuse(request: Request, error: Exception) -> Response:
    codes = {InvalidSpecError: 422, JobExistsError: 409, JobNotFoundError: 404}
    return JSONResponse({"error": str(error)}, next(code for kind, code in codes.items() if isinstance(error, kind)))


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with AsyncTrainerClient(LocalProcessBackendConfig()) as client:
        app.state.client = client
        yield


app = Starlette(
    routes=[
        Route("/jobs", submit, methods=["POST"]),
        Route("/jobs", jobs),
        Route("/jobs/{name}/events", stream),
    ],
    exception_handlers={InvalidSpecError: refuse, JobExistsError: refuse, JobNotFoundError: refuse},
    lifespan=lifespan,
)

if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=8000)
