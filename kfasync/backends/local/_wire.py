"""The protocol on the supervisor's Unix socket: frames of one JSON header and one binary blob.

The first frame in each direction is the handshake and keeps its form in every version, as does the ``handover``
request, so that any two versions can at least part on good terms:

* client: ``{"hello": PROTOCOL, "version": "0.1.0"}``
* supervisor: ``{"hello": PROTOCOL, "version": "0.1.0", "pid": 123}``

Then the client sends requests ``{"id": n, "op": "submit", …}`` in any number at once, and gets one reply for each:
``{"id": n, "ok": {…}}`` or ``{"id": n, "error": {"type": "JobExistsError", "args": […], "message": "…"}}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

__all__ = ["PROTOCOL", "FrameProtocol", "short_path"]

#: Raised whenever a request or its meaning changes.
PROTOCOL = 1

_LENGTHS = struct.Struct(">II")
# A header is a spec and an environment, a blob a payload: far below this. It bounds what a broken peer makes us buffer.
_LIMIT = 1 << 30
# sun_path holds 108 bytes on Linux and 104 on macOS, with the terminating NUL.
_MAX_SOCKET_PATH = 100


class FrameProtocol(asyncio.Protocol):
    """Splits the stream into frames and hands each to `frame_received`."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By its methods, not by its class: uvloop's transports inherit from none of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            header_size, blob_size = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + header_size + blob_size
            if end > _LIMIT:
                self.transport.abort()
                return
            if len(self._buffer) < end:
                return
            split = _LENGTHS.size + header_size
            header = json.loads(self._buffer[_LENGTHS.size : split])
            blob = bytes(self._buffer[split:end])
            del self._buffer[:end]
            self.frame_received(header, blob)

    def frame_received(self, header: dict[str, Any], blob: bytes) -> None:
        """Called for each frame, in order."""
        raise NotImplementedError

    def send(self, header: Mapping[str, Any], blob: bytes = b"") -> None:
        """Queue one frame."""
        text = json.dumps(header, separators=(",", ":")).encode()
        self.transport.write(_LENGTHS.pack(len(text), len(blob)) + text + blob)


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a socket that fits the kernel's limit, however deep its directory is."""
    if len(os.fsencode(path)) < _MAX_SOCKET_PATH or sys.platform != "linux":
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
