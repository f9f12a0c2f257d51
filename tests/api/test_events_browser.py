"""The EventSource of a real browser reads the stream and resumes on its own after a disconnect.

The test controls the browser over the WebDriver protocol, with the driver of that browser.
"""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from homing.server.web_server import address, listen, running
from tests.support.api_keys import LOCAL_ACCESS, LOCAL_HEADERS
from tests.support.builders import an_event, writing
from tests.support.changing_server import a_number
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tracker.api import routes
from tracker.app import create_tracker
from tracker.service.tracker import Tracker
from tracker.settings import Settings

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(
    DRIVER is None or BROWSER is None,
    reason="needs chromium and chromedriver, which pip cannot install (Debian: apt install chromium-driver)",
)
WITHIN = 60.0
LISTEN = """
window.received = []; window.opened = 0;
window.source = new EventSource('/v1/events?type=processing');
window.source.onopen = () => { window.opened += 1; };
window.source.addEventListener('homing.task.processing', (event) => {
    window.received.push([event.lastEventId, JSON.parse(event.data).sequence]);
});
"""


class Browser:
    """One headless browser window."""

    def __init__(self, driver: httpx.AsyncClient, session: str) -> None:
        self._driver = driver
        self._path = f"/session/{session}"

    async def go(self, url: str) -> None:
        await self._ask("/url", {"url": url})

    async def run(self, script: str) -> Any:
        return await self._ask("/execute/sync", {"script": script, "args": []})

    async def _ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self._driver.post(self._path + path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert DRIVER is not None
    arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"]
    options = {"binary": BROWSER, "args": [*arguments, f"--user-data-dir={tmp_path / 'browser'}"]}
    wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
    process = await asyncio.create_subprocess_exec(DRIVER, f"--port={port}", stdout=asyncio.subprocess.DEVNULL)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=WITHIN) as driver:
            await until(lambda: _ready(driver), within=WITHIN)
            made = (await driver.post("/session", json=wanted)).json()["value"]
            assert "sessionId" in made, made
            yield Browser(driver, made["sessionId"])
            await driver.delete(f"/session/{made['sessionId']}")
    finally:
        process.terminate()
        await process.wait()


async def _ready(driver: httpx.AsyncClient) -> bool:
    try:
        return bool((await driver.get("/status")).json()["value"]["ready"])
    except httpx.TransportError:
        return False


def with_key(app: ASGIApp) -> ASGIApp:
    """Add the API key to each request, as a proxy does. An EventSource cannot send headers."""
    key = (b"authorization", LOCAL_HEADERS["authorization"].encode())

    async def added(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "headers": [*scope["headers"], key]}, receive, send)

    return added


@asynccontextmanager
async def serving(tracker: Tracker, port: int = 0) -> AsyncIterator[str]:
    with closing(listen("127.0.0.1", port)) as listener:
        app = with_key(Starlette(routes=routes(tracker, LOCAL_ACCESS)))
        async with tracker, running(app, listener, ending=tracker.feed.dismiss):
            yield address(listener)


async def change(tracker: Tracker, sequence: int) -> None:
    event = an_event(a_number(1, client="local"), sequence)
    await tracker.store.apply([writing(event.task, events=(event,))])
    tracker.feed.signal_commit()


async def test_event_source_reconnects_without_missing_events(browser: Browser, tmp_path: Path) -> None:
    settings = Settings(database_url=sqlite_url(tmp_path))
    expected = [[str(number), f"{number:010}"] for number in range(1, 4)]

    async def received(count: int) -> bool:
        return len(await browser.run("return window.received")) >= count

    async def opened() -> bool:
        return bool(await browser.run("return window.opened"))

    async with serving(create_tracker(settings)) as url:
        await browser.go(f"{url}/healthz")
        await browser.run(LISTEN)
        await until(opened, within=WITHIN)
        # No event has arrived yet, but the stream is open and its cursor is known.
        assert await browser.run("return window.received") == []

    # The restarted server must send the events from its downtime.
    away = create_tracker(settings)
    async with away:
        await change(away, 1)
    back = create_tracker(settings)
    async with serving(back, httpx.URL(url).port or 0):
        await until(lambda: received(1), within=WITHIN)
        await change(back, 2)
        await change(back, 3)
        await until(lambda: received(3), within=WITHIN)
    assert await browser.run("return window.received") == expected
    assert await browser.run("return window.opened") == 2
