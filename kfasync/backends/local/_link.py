"""A client's connection to the supervisor, which it starts when there is none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kfasync
from kfasync import errors
from kfasync.backends.local._layout import Home
from kfasync.backends.local._wire import PROTOCOL, FrameProtocol, short_path
from kfasync.errors import BackendError, BackendUnavailableError, IncompatibleVersionError
from kfasync.inotify import FileWatch

__all__ = ["Link"]

# Seconds until a supervisor that somebody else is starting must answer; it takes 0.2 s on an idle machine.
_START_TIMEOUT = 30.0
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from kfasync.backends.local._daemon import main; main()"


class _Client(FrameProtocol):
    """The client's end of one connection."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send({"hello": PROTOCOL, "version": kfasync.__version__})

    def frame_received(self, header: dict[str, Any], blob: bytes) -> None:
        if not self.hello.done():
            self.hello.set_result(header)
        elif (future := self._pending.pop(header["id"], None)) is not None and not future.done():
            future.set_result(header)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.hello.done():
            self.hello.set_exception(ConnectionResetError("the supervisor closed the connection"))
            self.hello.exception()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the supervisor went away"))
        self._pending.clear()
        self.lost.set_result(None)

    async def request(self, header: dict[str, Any], blob: bytes) -> Any:
        if self.transport.is_closing():
            raise ConnectionResetError("the supervisor went away")
        number = next(self._ids)
        future = self._pending[number] = self._loop.create_future()
        self.send({"id": number, **header}, blob)
        try:
            return await future
        finally:
            self._pending.pop(number, None)


class Link:
    """Requests to the supervisor of one home; reconnects, and starts the supervisor, as needed.

    Args:
        home: The home.
        patience: Seconds until a supervisor must answer, its start included.
    """

    def __init__(self, home: Home, patience: float = _START_TIMEOUT) -> None:
        self._home = home
        self._patience = patience
        self._client: _Client | None = None
        self._lock = asyncio.Lock()
        self._preparing: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Begin to connect, for a request that is about to come; the request tells what went wrong."""
        if self._client is None and self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare(), name="kfasync-prepare")

    async def _prepare(self) -> None:
        try:
            with contextlib.suppress(BackendError):
                await self._connected()
        finally:
            self._preparing = None

    async def request(self, op: str, blob: bytes = b"", **fields: Any) -> dict[str, Any]:
        """Send a request and return the answer. Requests are idempotent: a lost answer is asked for again.

        Raises:
            KfasyncError: Whatever the supervisor answered, as the same type.
        """
        for last in (False, False, True):
            client = await self._connected()
            try:
                reply = await client.request({"op": op, **fields}, blob)
            except ConnectionResetError as error:
                if last:
                    raise BackendError(f"the supervisor died three times over the request {op!r}") from error
                continue
            if "error" in reply:
                raise _error(reply["error"])
            ok: dict[str, Any] = reply["ok"]
            return ok
        raise AssertionError("unreachable")

    async def connected(self) -> asyncio.Future[None]:
        """Be connected, so that a supervisor has adopted every job. What it returns waits for the connection's loss."""
        return asyncio.shield((await self._connected()).lost)

    async def aclose(self) -> None:
        if (preparing := self._preparing) is not None:
            preparing.cancel()
            await asyncio.wait([preparing])
        if self._client is not None:
            self._client.transport.close()
            await self._client.lost
            self._client = None

    async def _connected(self) -> _Client:
        async with self._lock:
            if self._client is None or self._client.transport.is_closing():
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> _Client:
        client = await self._try() or await self._start()
        hello = client.hello.result()
        if hello["hello"] == PROTOCOL:
            return client
        theirs, ours = hello.get("version"), kfasync.__version__
        if hello["hello"] > PROTOCOL:
            client.transport.close()
            raise IncompatibleVersionError(
                f"the supervisor of {self._home.root} is kfasync {theirs}, newer than this process's {ours}: upgrade "
                f"kfasync here, or set KFASYNC_HOME to another directory. Its jobs are not affected."
            )
        return await self._succeed(client)

    async def _succeed(self, old: _Client) -> _Client:
        """Have an older supervisor leave; its jobs go on, and the one that we start adopts them."""
        try:
            # Ours waits for the lock before the old one lets go: its clients would start another of their version.
            async with asyncio.timeout(self._patience), _spawned(self._home) as told:
                line = await told.readline()
                with contextlib.suppress(ConnectionResetError):
                    await old.request({"op": "handover"}, b"")
                old.transport.close()
                while line == b"busy\n":
                    line = await told.readline()
                if line == b"ready\n" and (client := await self._try()) is not None:
                    return client
                reason = (line + await told.read(4096)).decode(errors="replace").strip() or "no message"
        except TimeoutError:
            reason = f"no answer within {self._patience:g} s"
        raise BackendUnavailableError(f"the supervisor could not be replaced: {reason}; see {self._home.log}")

    async def _try(self) -> _Client | None:
        """Connect to a supervisor that is there."""
        loop = asyncio.get_running_loop()
        try:
            with short_path(self._home.socket) as name:
                transport, client = await loop.create_unix_connection(_Client, name)
        except (FileNotFoundError, ConnectionError):
            return None
        try:
            async with asyncio.timeout(self._patience):
                await client.hello
        except ConnectionError:
            return None
        except TimeoutError:
            transport.close()
            raise BackendUnavailableError(
                f"the supervisor of {self._home.root} takes connections but does not answer; see {self._home.log}"
            ) from None
        except BaseException:
            # Nobody would close it, and a supervisor with a client never becomes idle.
            transport.close()
            raise
        return client

    async def _start(self) -> _Client:
        """Start a supervisor, or wait for the one that somebody else is starting."""
        self._home.create()
        try:
            async with asyncio.timeout(self._patience), FileWatch() as watch, _spawned(self._home) as told:
                watch.add(self._home.root)
                line = await told.readline()
                while line in (b"busy\n", b"ready\n"):
                    if (client := await self._try()) is not None:
                        return client
                    # Somebody else's is coming up (its socket will appear) or leaving (ours will take over).
                    line = await _either(told, watch) or line
                reason = (line + await told.read(4096)).decode(errors="replace").strip() or "no message"
                raise BackendUnavailableError(f"the supervisor could not start: {reason}; see {self._home.log}")
        except TimeoutError:
            raise BackendUnavailableError(
                f"the supervisor of {self._home.root} did not answer within {self._patience:g} s; see {self._home.log}"
            ) from None


async def _either(told: asyncio.StreamReader, watch: FileWatch) -> bytes:
    """Wait for the daemon's next line, which is returned, or for a change in the home."""
    line, change = asyncio.create_task(told.readline()), asyncio.create_task(watch.wait())
    try:
        await asyncio.wait({line, change}, return_when=asyncio.FIRST_COMPLETED)
        return line.result() if line.done() else b""
    finally:
        for task in (line, change):
            task.cancel()
        await asyncio.wait({line, change})


@contextlib.asynccontextmanager
async def _spawned(home: Home) -> AsyncIterator[asyncio.StreamReader]:
    """Start the daemon and give the pipe on which it says how that went. Closing the pipe ends one that still waits."""
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    package_parent = str(Path(kfasync.__file__).parents[1])
    try:
        with open(home.log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as sink:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, package_parent, str(writer)],
                env=_environment(home),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=[writer],
            )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb", buffering=0)
    )
    try:
        yield stream
    finally:
        transport.close()
        # It forked and left before it could say anything; this only takes its zombie away.
        process.wait()


def _environment(home: Home) -> dict[str, str]:
    # Without what marks the processes of a rank, which may be the client: they end with it.
    kept = {
        name: value for name, value in os.environ.items() if name not in ("KFASYNC_REPORT_FILE", "KFASYNC_STOP_FILE")
    }
    return {**kept, "KFASYNC_HOME": str(home.root)}


def _error(told: dict[str, Any]) -> Exception:
    kind = getattr(errors, told["type"], BackendError)
    error: Exception = kind(*told["args"])
    return error
