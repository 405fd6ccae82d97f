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
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, Generic, Protocol, TypeVar

from kfasync.errors import ClientClosedError, WrongLoopError

__all__ = ["Portal", "current"]


class _Closes(Protocol):
    async def aclose(self) -> None: ...


T = TypeVar("T")
R = TypeVar("R")
ResourceT = TypeVar("ResourceT", bound=_Closes)


class _Call(Generic[T]):
    """One task on the portal's loop and the thread that waits for it."""

    def __init__(self, portal: Portal, body: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._portal = portal
        self._body = body
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[T] | None = None
        self.future: Future[T] = Future()

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
        elif not self.future.done():
            self.future.set_exception(ClientClosedError("the call was interrupted before it began"))

    def _finish(self, task: asyncio.Task[T]) -> None:
        self._portal.calls.discard(self)
        if task.cancelled():
            self.future.set_exception(ClientClosedError("the call was cut short because its client was closed"))
        elif error := task.exception():
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())

    def result(self) -> T:
        """On the caller's thread: start the task and wait for it; an interrupt cancels it and awaits its cleanup."""
        try:
            self._portal.begin(self)
            wait_for([self.future])
        except BaseException:
            self.abandon()
            raise
        return self.future.result()

    def abandon(self) -> None:
        """On the caller's thread: cancel the task and await its cleanup, whatever it ends with."""
        # On a closed loop the task has ended already.
        if self._portal.post(self.cancel):
            wait_for([self.future])


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

    def post(self, callback: Callable[[], object]) -> bool:
        """Have a callback run on the loop; False when the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # Closed meanwhile; only the loop's own thread could tell without a race.
            return False
        return True

    def begin(self, call: _Call[Any]) -> None:
        """Start a call on the loop. Within the caller's ``try``: Ctrl-C may come as soon as the loop knows of it."""
        if threading.current_thread() is self._thread:
            raise WrongLoopError("a blocking client was used on kfasync's own loop: use the Async client there")
        # Locked: whatever starts comes before the closing, which then ends it.
        with self._lock:
            if self._closed:
                raise ClientClosedError("kfasync's background loop is closed")
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
        box: _Box[T] = _Box()
        call = _Call(self, lambda: func(box.put))
        for item in self._items(box, call):
            hear(item)
        return call.future.result()

    def iterate(self, source: Callable[[], AsyncGenerator[T, None]], *, limit: int = 1024) -> Iterator[T]:
        """Iterate an async generator from a thread.

        One task pumps it into a bounded buffer, so a slow reader holds the source back. Leaving the iteration early, by
        an exception or by dropping the iterator, cancels the task and awaits its cleanup.

        Args:
            source: Makes the generator; called on the loop.
            limit: Items that may wait.
        """
        box: _Box[T] = _Box()
        room = asyncio.Event()

        async def pump() -> None:
            async with contextlib.aclosing(source()) as items:
                async for item in items:
                    box.put(item)
                    if len(box) >= limit:
                        room.clear()
                        await room.wait()

        yield from self._items(box, _Call(self, pump), taken=lambda: self.post(room.set))

    def _items(self, box: _Box[T], call: _Call[Any], taken: Callable[[], object] = lambda: None) -> Iterator[T]:
        call.future.add_done_callback(lambda _: box.end())
        try:
            self.begin(call)
            while batch := box.take():
                taken()
                yield from batch
        except BaseException:
            # The garbage collector may close an iterator on the loop's own thread, which must not wait for itself.
            if threading.current_thread() is self._thread:
                call.cancel()
            else:
                call.abandon()
            raise
        call.future.result()

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


class _Box(Generic[T]):
    """Items on their way from the loop to a thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._ended = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """On the loop."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def end(self) -> None:
        """On the loop: nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def take(self) -> list[T]:
        """On the reader's thread: what is there, after waiting for something; empty at the end."""
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            batch, self._items = self._items, []
            return batch


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
