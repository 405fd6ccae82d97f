"""One inotify instance for everybody who follows files on a loop: the kernel allows a user 128 of them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from weakref import WeakKeyDictionary

from kfasync.errors import BackendError
from kfasync.inotify import FileWatch

__all__ = ["Follower"]


class _Hub:
    """Hands the changes that one `FileWatch` sees to those who asked for them. Lives while it has followers."""

    hubs: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub]] = WeakKeyDictionary()

    def __init__(self, watch: FileWatch) -> None:
        self.watch = watch
        self.followers = 0
        self.users: dict[Path, set[Follower]] = {}
        self.pump = asyncio.get_running_loop().create_task(self._pump())

    @classmethod
    async def join(cls) -> _Hub:
        loop = asyncio.get_running_loop()
        hub = cls.hubs.get(loop)
        if hub is None:
            watch = FileWatch()
            try:
                await watch.__aenter__()
            except OSError as error:
                raise BackendError(f"files can't be followed: {error}") from error
            hub = cls.hubs[loop] = cls(watch)
        hub.followers += 1
        return hub

    def leave(self) -> None:
        """In one step, so that no cancellation can leave the kernel's watch behind."""
        self.followers -= 1
        if self.followers == 0:
            # Whoever comes while the pump ends makes a hub of their own.
            del self.hubs[asyncio.get_running_loop()]
            self.pump.cancel()
            self.watch.close()

    async def _pump(self) -> None:
        while True:
            for path in await self.watch.wait():
                for follower in self.users.get(path, set()) | self.users.get(path.parent, set()):
                    follower.notice(path)


class Follower:
    """Waits for changes of the paths it names, or for an event; an async context manager.

    Args:
        done: When it is set, `wait` returns at once from then on.
    """

    def __init__(self, done: asyncio.Event) -> None:
        self._done = done
        self._wake = asyncio.Event()
        self._changed: set[Path] = set()
        self._paths: set[Path] = set()

    async def __aenter__(self) -> Self:
        self._hub = await _Hub.join()
        self._end = asyncio.get_running_loop().create_task(self._await_done())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.cancel()
        for path in list(self._paths):
            self.remove(path)
        self._hub.leave()
        await asyncio.wait([self._end, *([] if self._hub.followers else [self._hub.pump])])

    async def _await_done(self) -> None:
        await self._done.wait()
        self._wake.set()

    def add(self, path: Path, *, content: bool = True) -> bool:
        """Watch a file, or with ``content=False`` the entries of a directory; whether it is there.

        Raises:
            BackendError: The user's limit of watches is reached.
        """
        try:
            self._hub.watch.add(path, content=content)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise BackendError(f"{path} can't be followed: {error}; raise fs.inotify.max_user_watches") from error
        self._paths.add(path)
        self._hub.users.setdefault(path, set()).add(self)
        return True

    def remove(self, path: Path) -> None:
        """Stop watching; unknown paths are ignored."""
        self._paths.discard(path)
        users = self._hub.users.get(path)
        if users is not None:
            users.discard(self)
            if not users:
                del self._hub.users[path]
                with contextlib.suppress(OSError):
                    self._hub.watch.remove(path)

    def notice(self, path: Path) -> None:
        """Called by the hub."""
        self._changed.add(path)
        self._wake.set()

    async def wait(self) -> set[Path]:
        """Wait for the next change.

        Returns:
            What changed since the last call: watched files, entries of watched directories; maybe nothing once done.
        """
        await self._wake.wait()
        if not self._done.is_set():
            self._wake.clear()
        changed, self._changed = self._changed, set()
        return changed
