"""``kfasync supervisor``: look at the local place's supervisor, or have it leave. Neither starts one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select

from kfasync import settings
from kfasync.backends.local._layout import Home
from kfasync.backends.local._link import Link
from kfasync.cli._output import Output, json_line, line, message

__all__ = ["status", "stop"]


def status(output: Output) -> int:
    """Print what the supervisor says of itself; 1 when there is none."""
    told = asyncio.run(_ask("status"))
    if told is None:
        return _absent(output)
    if output == "json":
        json_line({"running": True, **told})
    else:
        for key, value in told.items():
            line(f"{key}: {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


def stop(output: Output) -> int:
    """Have it leave and wait until it has; its jobs go on, and the next supervisor adopts them."""
    told = asyncio.run(_ask("handover"))
    if output == "json":
        json_line({"stopped": told is not None})
    elif told is None:
        message("no supervisor runs")
    return 0


def _absent(output: Output) -> int:
    if output == "json":
        json_line({"running": False})
    else:
        message("no supervisor runs")
    return 1


async def _ask(op: str) -> dict[str, object] | None:
    link = Link(Home(settings.load().home))
    client = await link._try()
    if client is None:
        return None
    process = os.pidfd_open(client.hello.result()["pid"])
    try:
        reply: dict[str, object] = {}
        with contextlib.suppress(ConnectionResetError):  # It may be gone before its answer to a handover arrives.
            reply = (await client.request({"op": op}, b"")).get("ok", {})
        if op == "handover":
            # The connection ends before the process does.
            await client.lost
            await asyncio.to_thread(select.select, [process], [], [])
        return reply
    finally:
        client.transport.close()
        os.close(process)
