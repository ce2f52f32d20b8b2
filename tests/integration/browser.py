"""Drive a real headless Chromium over its debugging pipe; nothing but the standard library."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
WAIT_S = 60.0


def find_browser() -> str | None:
    """Return the browser's command: of MMFORMAT_CHROMIUM, or the first on the path."""
    named = os.environ.get("MMFORMAT_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab, with what happened in it.

    Attributes
    ----------
    requests, messages : list
        Addresses that were asked for, and what went to the console or was violated.
    """

    def __init__(self, receive: int, send: int) -> None:
        self._receive, self._send = receive, send
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.messages: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM", "Accessibility", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._send, data) :]
        return self._until(lambda message: message.get("id") == self._number)

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Open a file and wait until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)
        self.requests.clear()
        self.messages.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, script: str) -> Any:
        """Return the value of an expression; promises are waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _until(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + WAIT_S
        while True:
            message = self._next(end)
            self._note(message)
            if wanted(message):
                if "error" in message:
                    raise AssertionError(message["error"])
                return message.get("result", {})

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser did not answer")
            data = os.read(self._receive, 2**20)
            if not data:
                raise EOFError("the browser is gone")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method in (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Audits.issueAdded",
        ):
            self.messages.append(json.dumps(told))


@contextlib.contextmanager
def browser(command: str, folder: Path) -> Iterator[Page]:
    """Start a browser with a profile of its own, and end it."""
    to_child, ours_out = os.pipe()
    ours_in, from_child = os.pipe()
    arguments = [
        "--headless",
        "--no-sandbox",  # of root in a container; what it opens are files of this test
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={folder}",
        "--remote-debugging-pipe",
    ]
    # The protocol reads descriptor 3 and writes descriptor 4, whatever numbers ours have.
    shell = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", shell, command, *arguments],
            pass_fds=(to_child, from_child),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(to_child)
    os.close(from_child)
    try:
        page = Page(ours_in, ours_out)
        yield page
        page._session = None
        page.call("Browser.close")
        process.wait(WAIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(WAIT_S)
        os.close(ours_in)
        os.close(ours_out)
