"""should_stop(): the wish to stop, as training code sees it."""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["should_stop"]

_asked = False  # SIGTERM came
_watching = False  # the process no longer ends by SIGTERM
_held = threading.local()  # the signal mask of a thread that is forking


def should_stop() -> bool:
    """Whether the job should save its work and return.

    The first call is a promise: from then on SIGTERM does not end the process, and the job has its grace (10 seconds by
    default) to return by itself.

    Returns:
        True once the job was cancelled, suspended or preempted; it stays True.

    Example:
        >>> should_stop()
        False
    """
    if not _watching:
        _watch()
    path = os.environ.get("KFASYNC_STOP_FILE")
    return _asked or (bool(path) and os.path.exists(path))  # type: ignore[arg-type]


def _watch() -> None:
    global _watching
    _watching = True
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return  # the user's own handler decides; the stop file still tells
    try:
        signal.signal(signal.SIGTERM, _note)
    except ValueError:  # not the main thread, where Python allows no handler
        _shield()
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)


def _note(signum: int, frame: object) -> None:
    global _asked
    _asked = True


def _shield() -> None:
    # A handler of C that does nothing: abs(), since SIG_IGN would outlive exec and make every program that the job
    # starts immune as well. The stop file tells what the signal can't.
    import ctypes

    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGTERM, ctypes.cast(libc.abs, ctypes.c_void_p))


def _hold() -> None:
    # A SIGTERM for the child must not meet our handler in the moment before the child has dropped it.
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _forget() -> None:
    # A forked child made no promise: Process.terminate() and a pool's shutdown must still end it.
    global _watching, _asked
    if _watching and signal.getsignal(signal.SIGTERM) in (_note, signal.SIG_DFL):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _watching = _asked = False
    _release()
