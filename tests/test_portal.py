"""The portal: blocking calls on one background loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from kfasync import portal as portals
from kfasync.errors import ClientClosedError, WrongLoopError
from kfasync.portal import Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close()


async def _double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def test_run_returns_the_value(portal: Portal) -> None:
    assert portal.run(_double, 21) == 42


def test_run_raises_what_the_coroutine_raised(portal: Portal) -> None:
    async def broken() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        portal.run(broken)


def test_run_works_while_a_loop_runs_in_the_callers_thread(portal: Portal) -> None:
    async def cell() -> int:
        return portal.run(_double, 4)

    assert asyncio.run(cell()) == 8


def test_run_serves_many_threads_at_once(portal: Portal) -> None:
    everybody = threading.Barrier(8)
    values: list[int] = []

    def work(number: int) -> None:
        everybody.wait()
        values.append(portal.run(_double, number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(values) == [2 * n for n in range(8)]


def test_run_carries_the_callers_context(portal: Portal) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    who.set("me")

    async def ask() -> str:
        return who.get()

    assert portal.run(ask) == "me"


def test_run_on_the_portals_own_thread_is_refused(portal: Portal) -> None:
    async def nested() -> int:
        return portal.run(_double, 1)

    with pytest.raises(WrongLoopError):
        portal.run(nested)


def _interrupt_when(ready: threading.Event) -> None:
    def press() -> None:
        ready.wait()
        # A person is never so fast as to hit the instant between Python's last look at its signals and the system call
        # that blocks, which no lock of CPython covers; this thread, woken by that very step, would.
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    threading.Thread(target=press, daemon=True).start()


def test_ctrl_c_cancels_the_task_and_awaits_its_cleanup(portal: Portal) -> None:
    waiting, cleaned = threading.Event(), []

    async def wait_for_ever() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    _interrupt_when(waiting)
    with pytest.raises(KeyboardInterrupt):
        portal.run(wait_for_ever)
    assert cleaned == [True]
    assert portal.run(_double, 1) == 2


def _read(open_items: Callable[[], Iterator[int]], seen: list[int]) -> None:
    # Nothing but the loop itself holds the iterator, so leaving it closes it.
    for item in open_items():
        seen.append(item)


def test_ctrl_c_while_iterating_closes_the_source(portal: Portal) -> None:
    waiting, cleaned = threading.Event(), []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            waiting.set()
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    _interrupt_when(waiting)
    with pytest.raises(KeyboardInterrupt):
        _read(lambda: portal.iterate(source), [])
    assert cleaned == [True]


def test_iterate_gives_all_items_then_the_error(portal: Portal) -> None:
    async def source() -> AsyncGenerator[int, None]:
        for number in range(3000):
            yield number
        raise ValueError("end")

    seen: list[int] = []
    with pytest.raises(ValueError, match="end"):
        _read(lambda: portal.iterate(source, limit=7), seen)
    assert seen == list(range(3000))


def test_a_slow_reader_holds_the_source_back(portal: Portal) -> None:
    made: list[int] = []
    full = threading.Event()

    async def source() -> AsyncGenerator[int, None]:
        for number in range(1000):
            made.append(number)
            if number == 9:
                full.set()
            yield number

    items = portal.iterate(source, limit=10)
    assert next(items) == 0
    full.wait()
    portal.run(_double, 1)  # The loop has had its turn: nothing more was made.
    assert len(made) <= 20
    assert sum(1 for _ in items) == 999


def test_leaving_an_iteration_early_closes_the_source(portal: Portal) -> None:
    cleaned = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            cleaned.append(True)

    items = portal.iterate(source, limit=2)
    assert next(items) == 1
    del items
    gc.collect()
    assert cleaned == [True]


def test_what_is_told_is_heard_on_the_callers_thread_before_the_return(portal: Portal) -> None:
    heard: list[tuple[int, threading.Thread]] = []

    async def work(tell: Callable[[int], None]) -> str:
        for number in range(3):
            tell(number)
            await asyncio.sleep(0)
        return "done"

    value = portal.run_telling(work, lambda n: heard.append((n, threading.current_thread())))
    assert value == "done"
    assert heard == [(n, threading.main_thread()) for n in range(3)]


def test_a_listener_that_raises_cancels_the_task(portal: Portal) -> None:
    cleaned = []

    async def work(tell: Callable[[int], None]) -> None:
        try:
            tell(1)
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    def refuse(number: int) -> None:
        raise LookupError(number)

    with pytest.raises(LookupError):
        portal.run_telling(work, refuse)
    assert cleaned == [True]


class _Resource:
    def __init__(self) -> None:
        self.closed = 0

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


def test_close_closes_the_resources_and_ends_waiting_calls() -> None:
    portal = Portal()
    resource = portal.resource("key", _Resource)
    assert portal.resource("key", _Resource) is resource
    waiting = threading.Event()
    errors: list[BaseException] = []

    async def wait_for_ever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def call() -> None:
        try:
            portal.run(wait_for_ever)
        except ClientClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    waiting.wait()
    portal.close()
    thread.join()
    assert len(errors) == 1
    assert resource.closed == 1
    portal.close()
    with pytest.raises(ClientClosedError):
        portal.run(_double, 1)


def _child(body: Callable[[], int]) -> int:
    """Run a function in a forked child, which leaves with what it returns."""
    pid = os.fork()
    if pid == 0:
        os._exit(body())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_a_portal_of_its_own() -> None:
    parent = portals.current()
    assert parent.run(_double, 1) == 2

    def body() -> int:
        own = portals.current()
        return 7 if own is not parent and own.run(_double, 2) == 4 else 1

    assert _child(body) == 7
    assert portals.current() is parent
    assert parent.run(_double, 3) == 6


_SCRIPT = """
import asyncio, sys
from kfasync import portal
class Resource:
    async def aclose(self):
        await asyncio.sleep(0)
        print("closed", flush=True)
async def hello():
    return "hello"
current = portal.current()
current.resource("key", Resource)
print(current.run(hello), flush=True)
"""


def test_resources_are_closed_when_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "hello\nclosed\n"
    assert done.stderr == ""


def test_it_runs_on_uvloop() -> None:
    pytest.importorskip("uvloop")
    script = "import asyncio, uvloop\nasyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\n" + _SCRIPT
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "hello\nclosed\n"
