"""One client's connection to the supervisor: who it is, what it asks, and the answers."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Any, Protocol

from kfasync import __version__, log
from kfasync.backends.local._wire import PROTOCOL, FrameProtocol
from kfasync.errors import JobExistsError, JobNotFoundError, KfasyncError

__all__ = ["Connection"]

_log = log.get("local.supervisor")


class Host(Protocol):
    """What a connection needs of the supervisor."""

    tasks: asyncio.TaskGroup

    def connected(self, connection: Connection) -> None: ...

    def disconnected(self, connection: Connection) -> None: ...

    async def carry_out(self, op: str, request: dict[str, Any], blob: bytes) -> dict[str, Any]: ...


class Connection(FrameProtocol):
    """One client.

    Args:
        host: The supervisor.
    """

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", peer)
        if uid != os.getuid():
            # The directory's mode keeps others out already; a peer that got in anyway is not served.
            self.transport.abort()
            return
        self._host.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.disconnected(self)

    def frame_received(self, header: dict[str, Any], blob: bytes) -> None:
        if not self._greeted:
            self._greeted = True
            self.send({"hello": PROTOCOL, "version": __version__, "pid": os.getpid()})
            return
        self._host.tasks.create_task(self._answer(header, blob))

    async def _answer(self, header: dict[str, Any], blob: bytes) -> None:
        number, op = header.get("id"), header.get("op", "")
        try:
            reply: dict[str, Any] = {"id": number, "ok": await self._host.carry_out(op, header, blob)}
        except KfasyncError as error:
            args = [error.name, error.place] if isinstance(error, JobExistsError | JobNotFoundError) else [str(error)]
            reply = {"id": number, "error": {"type": type(error).__name__, "args": args}}
        except Exception as error:
            # A request that this version can't read, or a disk that refuses, is the client's to know of; no request may
            # end the supervisor.
            _log.warning("request_broke", op=op, error=repr(error))
            message = f"the supervisor can't carry out {op!r}: {error!r}"
            reply = {"id": number, "error": {"type": "BackendError", "args": [message]}}
        if not self.transport.is_closing():
            self.send(reply)
