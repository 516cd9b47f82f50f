"""Headless Chromium, driven over its own debugging protocol: go, press a key, read the page."""

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Browser:
    """One tab. `alerts` holds the texts of dialogs that a page opened."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.alerts: list[str] = []

    def steps(self, *steps: tuple[str, str]) -> list[Any]:
        """Do ('go', address), ('press', key), ('click', selector) or ('read', expression).

        ('look', '390 dark') is a width in pixels and a theme, 'light' or 'dark'; ('drag',
        '10 20 90 80') presses the mouse at a point, moves on, lets go at the last. Returns what the
        expressions gave.
        """
        return asyncio.run(self._steps(steps))

    async def _steps(self, steps: tuple[tuple[str, str], ...]) -> list[Any]:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self.port}/json/list") as answer:
                pages = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as tab:
                await self._ask(tab, "Page.enable")
                return [r for step in steps if (r := await self._step(tab, *step)) is not None]

    async def _step(self, tab: Any, kind: str, what: str) -> Any:
        if kind == "read":
            found = await self._ask(
                tab, "Runtime.evaluate", expression=what, returnByValue=True, awaitPromise=True
            )
            return found["result"]["value"]
        if kind == "look":
            await self._look(tab, *what.split())
            return None
        if kind == "go":
            await self._ask(tab, "Page.navigate", url=what)
        elif kind == "drag":
            await self._drag(tab, *map(int, what.split()))
        elif kind == "click":
            click = f"document.querySelector({json.dumps(what)}).click()"
            await self._ask(tab, "Runtime.evaluate", expression=click)
        else:
            await self._ask(tab, "Input.dispatchKeyEvent", type="keyDown", key=what, code=what)
        await self._loaded(tab)
        return None

    async def _look(self, tab: Any, width: str, theme: str) -> None:
        size = {"width": int(width), "height": 900, "deviceScaleFactor": 1}
        scheme = {"name": "prefers-color-scheme", "value": theme}
        await self._ask(tab, "Emulation.setDeviceMetricsOverride", mobile=int(width) < 600, **size)
        await self._ask(tab, "Emulation.setEmulatedMedia", features=[scheme])
        await self._ask(tab, "Emulation.setFocusEmulationEnabled", enabled=True)

    async def _drag(self, tab: Any, *ends: int) -> None:
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        places = list(zip(ends[::2], ends[1::2], strict=True))
        moves = [("Moved", *place) for place in places[1:]]
        for kind, x, y in (("Pressed", *places[0]), *moves, ("Released", *places[-1])):
            await self._ask(tab, "Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **held)

    async def _loaded(self, tab: Any) -> None:
        async with asyncio.timeout(60):
            while (await self._told(tab)).get("method") != "Page.loadEventFired":
                pass

    async def _ask(self, tab: Any, method: str, **params: object) -> dict[str, Any]:
        await tab.send_json({"id": 1, "method": method, "params": params})
        async with asyncio.timeout(60):
            while "id" not in (message := await self._told(tab)):
                pass
        assert "result" in message, message
        return dict(message["result"])

    async def _told(self, tab: Any) -> dict[str, Any]:
        message: dict[str, Any] = await tab.receive_json()
        if message.get("method") == "Page.javascriptDialogOpening":
            self.alerts.append(message["params"]["message"])
        return message


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium with one empty tab, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--remote-debugging-port=0", f"--user-data-dir={home}", "about:blank",
        ]  # fmt: skip
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield Browser(_port(Path(home) / "DevToolsActivePort"))
            finally:
                process.terminate()


def _port(file: Path) -> int:
    for _ in range(300):
        lines = file.read_text().splitlines() if file.exists() else []
        if lines:
            return int(lines[0])
        time.sleep(0.1)
    raise TimeoutError("chromium opened no debugging port")
