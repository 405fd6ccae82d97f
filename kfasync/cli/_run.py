"""From a command's coroutine to its exit code: one place turns errors and interrupts into codes and messages."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from kfasync.cli._output import OutputError, message
from kfasync.errors import JobFailedError, KfasyncError, WaitTimeoutError

if TYPE_CHECKING:
    from kfasync.trainer import AsyncTrainerClient

__all__ = ["ERROR", "FAILED", "INTERRUPTED", "TIMEOUT", "USAGE", "Command", "failure_code", "perform", "speaking"]

ERROR = 1
USAGE = 2
#: The job failed, and no rank left a code between 1 and 125.
FAILED = 100
#: As timeout(1) says it.
TIMEOUT = 124
#: 128 + SIGINT, as a shell says it.
INTERRUPTED = 130
#: 128 + SIGPIPE: who read our output has left.
_NO_READER = 141


class Command:
    """One invocation: the client, and the job that Ctrl-C would leave behind.

    Attributes:
        client: Opened for this command.
        following: Name of the job whose end or output is awaited; None when an interrupt leaves nothing to tell.
    """

    def __init__(self, client: AsyncTrainerClient) -> None:
        self.client = client
        self.following: str | None = None


def failure_code(error: JobFailedError) -> int:
    """The job's own exit code where it has one that a shell can pass on."""
    code = error.exit_code
    return code if code is not None and 1 <= code <= 125 else FAILED


def perform(body: Callable[[Command], Awaitable[int]]) -> int:
    """Run a command's body with an open client.

    Args:
        body: Gets the command; returns the exit code.

    Returns:
        The exit code: the body's, or that of the error it ended with.
    """
    commands: list[Command] = []

    async def main() -> int:
        from kfasync.trainer import AsyncTrainerClient

        async with AsyncTrainerClient() as client:
            commands.append(Command(client))
            return await body(commands[0])

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        name = commands[0].following if commands else None
        if name is not None:
            message(
                f"\njob {name} is still running; resume following with: kfasync wait {name}; "
                f"cancel with: kfasync cancel {name}"
            )
        return INTERRUPTED
    except JobFailedError as error:
        message(f"kfasync: {error}")
        return failure_code(error)
    except WaitTimeoutError as error:
        message(f"kfasync: {_one_line(error)}")
        return TIMEOUT
    except KfasyncError as error:
        message(f"kfasync: {_one_line(error)}")
        return ERROR


def speaking(call: Callable[[], object]) -> object:
    """Make a call that prints, and turn an output that can't be written into an exit code."""
    try:
        return call()
    except BrokenPipeError:
        _drop_stdout()
        return _NO_READER
    except OutputError as error:
        _drop_stdout()
        message(f"kfasync: {error}")
        return ERROR


def _drop_stdout() -> None:
    """The interpreter flushes stdout once more at its end, and would complain."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
