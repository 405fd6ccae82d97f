"""A job's log, read on through broken connections."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator

from kfasync.backends.base import Backend, LogLine, LogQuery
from kfasync.engine._backoff import UNDECIDED, Backoff
from kfasync.engine._batch import closing
from kfasync.state import JobState

__all__ = ["read_log"]


async def read_log(
    backend: Backend, job: JobState, query: LogQuery, done: asyncio.Event
) -> AsyncGenerator[LogLine, None]:
    """What `Backend.logs` yields; where the connection breaks it goes on behind the last line, by its cursor.

    Raises:
        BackendError: The log can't be read, or the connection could not be made again.
    """
    backoff = Backoff(f"log of {job.name}")
    cursor = ""
    while True:
        try:
            async with closing(backend.logs(job, query, done)) as lines:
                async for line in lines:
                    backoff.reset()
                    cursor = line.cursor or cursor
                    yield line
                return
        except UNDECIDED as error:
            await backoff.pause(error)
        if cursor:
            query = dataclasses.replace(query, since=cursor, tail=None)
