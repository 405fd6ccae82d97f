"""The supervisor's program: becomes a daemon, makes sure that it is the only one, and serves."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["main"]


def _detach() -> None:
    """Leave the client's session, so that neither its terminal nor its end reaches us."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    os.chdir("/")


def main() -> None:
    """``python -c … FD``: FD is a pipe on which the client waits for ``ready``, ``busy`` or what went wrong.

    After ``busy`` this process waits until the other supervisor has left, or the client closes the pipe.
    """
    pipe = int(sys.argv[2])
    _detach()
    # Only now, so that the client's wait for the first process is short.
    import asyncio
    import fcntl
    import socket

    from kfasync import settings
    from kfasync.backends.local import _process
    from kfasync.backends.local._layout import Home
    from kfasync.backends.local._supervisor import Supervisor
    from kfasync.backends.local._wire import short_path
    from kfasync.errors import KfasyncError

    loaded = settings.load()
    home = Home(loaded.home)
    home.create()
    lock = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(pipe, b"busy\n")
        _wait_for_lock(lock, pipe)
    _log_to_stderr()
    _process.leave_rank()
    _process.become_subreaper()
    listener = socket.socket(socket.AF_UNIX)
    # Bound under another name and renamed when it listens: whoever sees the socket can connect.
    young = home.socket.with_suffix(".young")
    young.unlink(missing_ok=True)
    with short_path(young) as name:
        listener.bind(name)
    listener.listen(128)

    # A file object, so that nothing is written once it is closed and its number belongs to another file.
    answer = os.fdopen(pipe, "wb", buffering=0)

    def tell(text: str) -> None:
        with contextlib.suppress(BrokenPipeError), answer:
            answer.write(text.encode() + b"\n")

    def ready() -> None:
        young.rename(home.socket)
        tell("ready")

    try:
        asyncio.run(Supervisor(home, loaded).serve(listener, ready))
    except KfasyncError as error:
        if not answer.closed:
            tell(str(error))
        raise


def _wait_for_lock(lock: int, pipe: int) -> None:
    """Block until the lock is ours. Nobody may want us any more by then: that ends this process."""
    import fcntl
    import select
    import threading

    def watch_client() -> None:
        poll = select.poll()
        poll.register(pipe, 0)  # an error of the pipe is always reported: the reader closed it
        poll.poll()
        if not taken.is_set():
            os._exit(0)

    taken = threading.Event()
    threading.Thread(target=watch_client, daemon=True).start()
    fcntl.flock(lock, fcntl.LOCK_EX)
    taken.set()


def _log_to_stderr() -> None:
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("kfasync")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
