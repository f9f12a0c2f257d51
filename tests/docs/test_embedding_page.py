"""Run the files of docs/how-to/embed.md and docs/tutorials/receive.md over real HTTP, as a user does."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.conditions import until

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^```python\n(# (\w+\.py)\n.*?)^```$", re.DOTALL | re.MULTILINE)
IN_TIME = 60.0
ORDER = {"prompt": "a lighthouse in the fog"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the files of both pages to a folder."""
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("how-to/embed.md", "tutorials/receive.md"))
    found = {name: text for text, name in FILE.findall(pages)}
    assert len(found) == pages.count("```python")
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@asynccontextmanager
async def running(
    folder: Path, *arguments: str, sandbox: RunningSandbox, **settings: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a Python module on a free port, with the page's folder and settings. Yield the process and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environ = {
        "HOMING_KLING_BASE_URL": sandbox.base_url,
        "HOMING_KLING_API_KEY": sandbox.api_key,
        "HOMING_PORT": str(port),
        **{name: value.format(url=url) for name, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *(argument.format(port=port) for argument in arguments), cwd=folder, env=environ
    )
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:

            async def up() -> bool:
                assert process.returncode is None
                try:
                    return (await client.get("/")).status_code > 0
                except httpx.TransportError:
                    return False

            await until(up)
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def key_of(folder: Path) -> dict[str, str]:
    """Return the header with the key that the first start wrote next to the database."""
    return {"authorization": f"Bearer {(folder / 'homing.db.key').read_text().strip()}"}


def uvicorn(module: str) -> tuple[str, ...]:
    return ("uvicorn", "--factory", f"{module}:create_app", "--no-access-log", "--port", "{port}")


async def ordered(client: httpx.AsyncClient, number: int) -> str:
    """Order an image, and return its URL when it is ready."""
    answer = await client.post(f"/orders/{number}", params=ORDER)
    assert answer.status_code == 200, answer.text
    asset_url: list[str] = []

    async def came() -> bool:
        shown: Mapping[str, str | None] = (await client.get(f"/orders/{number}")).json()
        asset_url.extend(filter(None, [shown["picture"]]))
        return bool(asset_url)

    await until(came)
    return asset_url[0]


async def test_page_own_test_passes(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed in" in done.stdout


@pytest.mark.parametrize("module", ["shop", "studio", "press", "gallery"])
async def test_page_app_finishes_task_and_stops(folder: Path, kling_sandbox: RunningSandbox, module: str) -> None:
    where = {"HOMING_PUBLIC_URL": "{url}/homing"}
    async with running(folder, *uvicorn(module), sandbox=kling_sandbox, **where) as (process, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            asset_url = await ordered(client, 1)
            assert asset_url.startswith(kling_sandbox.base_url)
            # The mounted app received the callbacks, so no poll was needed.
            (made,) = kling_sandbox.ledger["tasks"]
            sent = kling_sandbox.task(made["id"])["callbacks"]
            answers = [attempt["answer"] for callback in sent for attempt in callback["attempts"]]
            assert answers == [200] * len(answers) != []
            found = await client.get("/homing/v1/tasks/1", headers=key_of(folder) if module != "studio" else {})
            assert found.status_code == (404 if module == "studio" else 200)
            refused = await client.post("/orders/2", params={"prompt": ""})
            if module == "shop":
                assert (refused.status_code, "prompt" in refused.json()["detail"]) == (400, True)
            if module == "press":
                # The script polls the provider, prints its status, and sends no order number twice.
                assert (refused.status_code, refused.json()) == (200, {"task": "2", "status": "rejected"})
                assert (await client.post("/orders/1", params=ORDER)).status_code == 409
                assert len(kling_sandbox.ledger["tasks"]) == 1
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), IN_TIME)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_event_reader_does_not_delay_app_stop(
    folder: Path, kling_sandbox: RunningSandbox, signal_number: signal.Signals
) -> None:
    async with (
        running(folder, *uvicorn("shop"), sandbox=kling_sandbox) as (process, url),
        httpx.AsyncClient(base_url=f"{url}/homing", trust_env=False, timeout=30) as client,
        client.stream("GET", "/v1/events", headers={"accept": "text/event-stream"} | key_of(folder)) as stream,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == ": homing"
        process.send_signal(signal_number)
        assert [line async for line in lines]
        await asyncio.wait_for(process.wait(), IN_TIME)


async def test_page_script_prints_the_status(folder: Path, kling_sandbox: RunningSandbox) -> None:
    environ = {"HOMING_KLING_BASE_URL": kling_sandbox.base_url, "HOMING_KLING_API_KEY": kling_sandbox.api_key}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "script.py", cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE
    )

    out, _ = await asyncio.wait_for(process.communicate(), 60)

    assert (process.returncode, out.decode()) == (0, "succeeded\n")


async def test_configured_subscriber_gets_events_when_served(folder: Path, kling_sandbox: RunningSandbox) -> None:
    page = (ROOT / "docs" / "how-to" / "embed.md").read_text()
    (sinks,) = re.findall(r"^HOMING_SINKS='(python:\S+)' homing serve$", page, re.MULTILINE)
    where = {"HOMING_PUBLIC_URL": "{url}", "HOMING_SINKS": sinks}
    came = folder / "results.jsonl"
    async with running(folder, "homing", "serve", sandbox=kling_sandbox, **where) as (_, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post("/kling/v1/images/omni-image", json=ORDER, headers=key_of(folder))
            assert answer.status_code == 200, answer.text

        async def received() -> bool:
            return came.exists() and kling_sandbox.base_url in came.read_text()

        await until(received)
