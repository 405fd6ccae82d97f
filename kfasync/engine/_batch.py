"""Group commit for streams: what arrives while the consumer is busy comes to it as one batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar, cast

__all__ = ["batches", "closing"]

_T = TypeVar("_T")


def closing(stream: AsyncIterator[_T]) -> contextlib.aclosing[AsyncGenerator[_T, None]]:
    """`contextlib.aclosing` for streams that are declared as plain iterators, as those of `Backend` are."""
    return contextlib.aclosing(cast("AsyncGenerator[_T, None]", stream))


async def batches(source: AsyncIterator[_T], limit: int = 256) -> AsyncGenerator[list[_T], None]:
    """Yield the items of a stream in order, as many at a time as have arrived, at most ``limit``.

    A journal commit costs the same for one event as for a hundred, so a busy stream is written in few commits while a
    single event is still passed on at once.

    Args:
        source: The stream; it is read, and closed, by one task that ends before this generator does.
        limit: Items held at most; then the source is left waiting.
    """
    pending: list[_T] = []
    arrived, room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async with closing(source) as stream:
            async for item in stream:
                pending.append(item)
                arrived.set()
                if len(pending) >= limit:
                    room.clear()
                    await room.wait()

    reader = asyncio.create_task(read(), name="kfasync-batches")
    reader.add_done_callback(lambda _: arrived.set())
    try:
        while pending or not reader.done():
            await arrived.wait()
            arrived.clear()
            batch, pending[:] = pending[:], []
            room.set()
            if batch:
                yield batch
            if reader.done():
                arrived.set()
        await reader
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
