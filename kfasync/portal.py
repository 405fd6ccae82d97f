"""One event loop in a background thread, for the blocking twins of the async clients.

A process has one portal. It starts on first use, and a child made by fork gets its own. Every task on it belongs to a
blocking call, which waits for the task's end even when Ctrl-C cuts the call short.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Hashable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from kfasync.errors import ClientClosedError, WrongLoopError

__all__ = ["Portal", "current"]


class _Closes(Protocol):
    async def aclose(self) -> None: ...


T = TypeVar("T")
R = TypeVar("R")
ResourceT = TypeVar("ResourceT", bound=_Closes)

#: Items on their way from the loop to a thread; written in C, so that Ctrl-C can't leave it half-way.
_Box = SimpleQueue[Any]
_END = object()


class _Call(Generic[T]):
    """One task on the portal's loop, and the thread that waits for it.

    Ctrl-C can hit the waiting thread between any two steps, so it must hold no lock that the loop needs: a lock of
    Python code, such as a Condition's, could stay locked for ever. The loop opens a latch, once.
    """

    def __init__(
        self, portal: Portal, body: Callable[[], Coroutine[Any, Any, T]], at_end: Callable[[], object] = lambda: None
    ) -> None:
        self._portal = portal
        self._body = body
        self._at_end = at_end
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[T] | None = None
        self.outcome: Callable[[], T]
        self.begun = False
        self._ended = False
        self._latch = threading.Lock()
        self._latch.acquire()

    async def _main(self) -> T:
        return await self._body()

    def start(self) -> None:
        """On the loop."""
        self._task = asyncio.get_running_loop().create_task(self._main(), context=self._context)
        self._portal.calls.add(self)
        self._task.add_done_callback(self._finish)

    def cancel(self) -> None:
        """On the loop, where it comes behind `start`, unless an interrupt kept that from being asked for."""
        if self._task is not None:
            self._task.cancel()
        elif not self._ended:
            self._end(self._cut_short)

    def _finish(self, task: asyncio.Task[T]) -> None:
        self._portal.calls.discard(self)
        if not task.cancelled():
            # Retrieved: how it ended is for its caller, who may have stopped asking, as a script does that ends in the
            # middle of a stream. That is no news for asyncio to print.
            task.exception()
        self._end(self._cut_short if task.cancelled() else task.result)

    def _end(self, outcome: Callable[[], T]) -> None:
        self.outcome = outcome
        self._ended = True
        self._at_end()
        self._latch.release()

    def _cut_short(self) -> T:
        raise ClientClosedError("the call was cut short because its client was closed")

    def result(self) -> T:
        """On the caller's thread: start the task and wait for it; an interrupt cancels it and awaits its cleanup."""
        try:
            self._portal.begin(self)
            self.wait()
        except BaseException:
            self.abandon()
            raise
        return self.outcome()

    def wait(self) -> None:
        """On the caller's thread: wait for the end."""
        # The latch opens for one: a wait that was interrupted just behind it must not be repeated.
        if not self._ended:
            self._latch.acquire()

    def abandon(self) -> None:
        """On the caller's thread: cancel the task, if it was started, and await its cleanup."""
        if not self.begun:
            return
        # The garbage collector may close an iterator on the loop's own thread, which must not wait for itself.
        if self._portal.is_here():
            self.cancel()
        # On a closed loop the task has ended already.
        elif self._portal.post(self.cancel):
            self.wait()


class Portal:
    """A running event loop in a daemon thread.

    Example:
        >>> async def double(x):
        ...     return 2 * x
        >>> portal = Portal()
        >>> portal.run(double, 21)
        42
        >>> portal.close()
    """

    def __init__(self) -> None:
        self.calls: set[_Call[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._resources: dict[Hashable, Any] = {}
        self._thread = threading.Thread(target=self._main, name="kfasync-portal", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    def is_here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return threading.current_thread() is self._thread

    def post(self, callback: Callable[[], object]) -> bool:
        """Have a callback run on the loop; False when the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # Closed meanwhile; only the loop's own thread could tell without a race.
            return False
        return True

    def begin(self, call: _Call[Any]) -> None:
        """Start a call on the loop. Within the caller's ``try``: Ctrl-C may come as soon as the loop knows of it."""
        if self.is_here():
            raise WrongLoopError("a blocking client was used on kfasync's own loop: use the Async client there")
        # Locked: whatever starts comes before the closing, which then ends it.
        with self._lock:
            if self._closed:
                raise ClientClosedError("kfasync's background loop is closed")
            # Said before it is done: an interrupt between the two then waits for the end of what never began.
            call.begun = True
            self.post(call.start)

    def run(self, func: Callable[..., Coroutine[Any, Any, T]], /, *args: Any) -> T:
        """Run a coroutine function on the loop and wait for it.

        Args:
            func: The coroutine function.
            args: Its arguments.

        Returns:
            What it returned.

        Raises:
            KeyboardInterrupt: Ctrl-C; by then the task was cancelled and has cleaned up.
        """
        return _Call(self, lambda: func(*args)).result()

    def run_telling(
        self, func: Callable[[Callable[[T], None]], Coroutine[Any, Any, R]], hear: Callable[[T], object]
    ) -> R:
        """Run a coroutine function that has something to tell meanwhile.

        Args:
            func: Called with a function that takes what it tells.
            hear: Called with each of these on the caller's thread. When it raises, the task is cancelled.

        Returns:
            What ``func`` returned.
        """
        box = _Box()
        call = _Call(self, lambda: func(box.put), at_end=lambda: box.put(_END))
        with contextlib.closing(self._items(box, call)) as items:
            for item in items:
                hear(item)
        return call.outcome()

    def iterate(self, source: Callable[[], AsyncGenerator[T, None]], *, limit: int = 1024) -> Iterator[T]:
        """Iterate an async generator from a thread.

        One task pumps it into a bounded buffer, so a slow reader holds the source back. Leaving the iteration early, by
        an exception or by dropping the iterator, cancels the task and awaits its cleanup.

        Args:
            source: Makes the generator; called on the loop.
            limit: Items that may wait.
        """
        box = _Box()
        room = asyncio.Event()

        async def pump() -> None:
            async with contextlib.aclosing(source()) as items:
                async for item in items:
                    box.put(item)
                    if box.qsize() >= limit:
                        room.clear()
                        await room.wait()

        def taken() -> None:
            # Passed once on the way down from a full box, while the pump waits.
            if box.qsize() == limit // 2:
                self.post(room.set)

        yield from self._items(box, _Call(self, pump, at_end=lambda: box.put(_END)), taken)

    def _items(
        self, box: _Box, call: _Call[Any], taken: Callable[[], object] = lambda: None
    ) -> Generator[Any, None, None]:
        try:
            self.begin(call)
            while (item := box.get()) is not _END:
                taken()
                yield item
        except BaseException:
            call.abandon()
            raise
        call.outcome()

    def resource(self, key: Hashable, make: Callable[[], ResourceT]) -> ResourceT:
        """The portal's one object for a key, made when there is none and closed before the portal ends."""
        with self._lock:
            if key not in self._resources:
                self._resources[key] = make()
            found: ResourceT = self._resources[key]
            return found

    def close(self) -> None:
        """Close the resources, cancel what runs, await its cleanup and end the thread. May be repeated."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self.post(self._begin_end)
        self._thread.join()

    def _begin_end(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._end())
        self._ending.add_done_callback(lambda _: self._loop.stop())

    async def _end(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._cancel_all)
            for resource in self._resources.values():
                stack.push_async_callback(resource.aclose)

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


_lock = threading.Lock()
_current: Portal | None = None
#: Portals of the parent process. Their loop shares kernel objects with the parent, so nothing may ever close them here.
_inherited: list[Portal] = []


def current() -> Portal:
    """This process's portal, started when there is none; it ends with the process."""
    global _current
    with _lock:
        if _current is None:
            _current = Portal()
        return _current


@atexit.register
def _close_current() -> None:
    global _current
    with _lock:
        portal, _current = _current, None
    if portal is not None:
        portal.close()


def _after_fork() -> None:
    global _current, _lock
    _lock = threading.Lock()
    if _current is not None:
        _inherited.append(_current)
        _current = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
