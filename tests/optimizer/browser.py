"""A real browser, driven through a pipe by the DevTools protocol. Nothing but the browser itself is needed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

__all__ = ["Browser", "installed"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Headless, drawing without a graphics card, with nothing of its own to do on the network.
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-breakpad", "--no-first-run",
    "--remote-debugging-pipe", "--window-size=1280,1000",
)  # fmt: skip


def installed() -> str | None:
    """The path of a browser that speaks the protocol."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a browser.

    Args:
        path: The browser.
        profile: A directory for what it keeps.
    """

    def __init__(self, path: str, profile: Path) -> None:
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        ours, theirs = os.pipe(), os.pipe()
        # It reads commands from descriptor 3 and writes to 4; sh may not know descriptors above 9.
        script = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, path, *_OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._commands, self._answers = os.fdopen(ours[1], "wb", 0), os.fdopen(theirs[0], "rb")
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = {}
        self.call("Browser.close")
        self._process.wait()
        self._commands.close()
        self._answers.close()

    def call(self, method: str, **params: Any) -> Any:
        """One command and its result."""
        number = next(self._ids)
        command = {"id": number, "method": method, "params": params, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        return answer["result"]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not wanted(message := self._read()):
            self.events.append(message)
        return message

    def _read(self) -> dict[str, Any]:
        parts = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has gone"
            parts += byte
        message: dict[str, Any] = json.loads(parts)
        return message

    def open(self, path: Path) -> None:
        """Load a file and wait until it has; what earlier pages did is forgotten."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        if not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._until(lambda message: message.get("method") == "Page.loadEventFired"))

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """A key of the keyboard, down and up."""
        codes = {"Tab": 9, "Enter": 13}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def prefer(self, scheme: str) -> None:
        """Have the system be ``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def of(self, method: str) -> list[dict[str, Any]]:
        """The page's events of one kind so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    @property
    def complaints(self) -> list[Any]:
        """What the page's console says that nobody wants to read there, and what no one caught."""
        said = [each for each in self.of("Runtime.consoleAPICalled") if each["type"] in ("error", "warning", "assert")]
        logged = [each["entry"] for each in self.of("Log.entryAdded") if each["entry"]["level"] == "error"]
        return [*said, *logged, *self.of("Runtime.exceptionThrown")]

    @property
    def requests(self) -> list[str]:
        """Everything that the page asked for."""
        return [each["request"]["url"] for each in self.of("Network.requestWillBeSent")]
