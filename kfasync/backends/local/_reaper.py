"""The one place that reaps the supervisor's children: ranks, zygotes, installers and the orphans that come to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

__all__ = ["Reaper"]

# A child may be seen to end before anybody asked for it (a fork's answer and a SIGCHLD race); so many are remembered.
_REMEMBERED = 4096


# Bytes of a line that are kept; the rest comes as lines of its own.
_LINE = 1 << 16


class Reaper:
    """Turns SIGCHLD into futures. Needs the loop of the main thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._expected: dict[int, asyncio.Future[int]] = {}
        self._unclaimed: OrderedDict[int, int] = OrderedDict()

    def start(self) -> None:
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def stop(self) -> None:
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def expect(self, pid: int) -> asyncio.Future[int]:
        """The exit code of a child (negative: the signal that ended it), as a future."""
        future: asyncio.Future[int] = self._loop.create_future()
        code = self._unclaimed.pop(pid, None)
        # An orphan may have had the pid before: what is a child of ours still has not ended yet.
        if code is not None and not _is_child(pid):
            future.set_result(code)
        else:
            self._expected[pid] = future
        return future

    async def run(self, argv: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]) -> int:
        """Run a command and give its output, both streams, line by line to a callback.

        Cancelled, it kills the command's process group and waits for its end.
        """
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, start_new_session=True
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        ended = self.expect(process.pid)
        stream = asyncio.StreamReader(limit=_LINE)
        transport, _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb", buffering=0)
        )
        try:
            async for line in _lines(stream):
                on_line(line)
            code = await asyncio.shield(ended)
        finally:
            transport.close()
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await ended
            # Popen would call waitpid for a child that is reaped already, and warn.
            process.returncode = ended.result()
        return code

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            future = self._expected.pop(pid, None)
            if future is None:
                self._unclaimed[pid] = code
                while len(self._unclaimed) > _REMEMBERED:
                    self._unclaimed.popitem(last=False)
            elif not future.done():
                future.set_result(code)


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    rest = b""
    while chunk := await stream.read(_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
        if len(rest) >= _LINE:
            yield rest.decode(errors="replace")
            rest = b""
    if rest:
        yield rest.decode(errors="replace")
