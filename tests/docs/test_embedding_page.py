"""docs/how-to/embed.md and docs/tutorials/receive.md as a user would follow them: their files run over real HTTP."""

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
from tests.support.homing_server import until

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^```python\n(# (\w+\.py)\n.*?)^```$", re.DOTALL | re.MULTILINE)
IN_TIME = 10.0
ORDER = {"prompt": "a lighthouse in the fog"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Put the files of both pages into a folder."""
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
    """Run a module of Python on a free port, in the page's folder and with its settings; gives it and its address."""
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
        sys.executable, "-m", *(word.format(port=port) for word in arguments), cwd=folder, env=environ
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
    """Return the header with the key that the first start made beside the database."""
    return {"authorization": f"Bearer {(folder / 'homing.db.key').read_text().strip()}"}


def uvicorn(module: str) -> tuple[str, ...]:
    return ("uvicorn", "--factory", f"{module}:create_app", "--no-access-log", "--port", "{port}")


async def ordered(client: httpx.AsyncClient, number: int) -> str:
    """Order a picture, and return its URL when it has come."""
    answer = await client.post(f"/orders/{number}", params=ORDER)
    assert answer.status_code == 200, answer.text
    picture: list[str] = []

    async def came() -> bool:
        shown: Mapping[str, str | None] = (await client.get(f"/orders/{number}")).json()
        picture.extend(filter(None, [shown["picture"]]))
        return bool(picture)

    await until(came)
    return picture[0]


async def test_the_page_s_own_test_passes(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed in" in done.stdout


@pytest.mark.parametrize("module", ["shop", "studio", "press", "gallery"])
async def test_an_app_of_the_page_brings_a_picture_home_and_ends_when_told(
    folder: Path, kling_sandbox: RunningSandbox, module: str
) -> None:
    where = {"HOMING_PUBLIC_URL": "{url}/homing"}
    async with running(folder, *uvicorn(module), sandbox=kling_sandbox, **where) as (process, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            picture = await ordered(client, 1)
            assert picture.startswith(kling_sandbox.base_url)
            # Nobody had to ask: what is mounted took the callbacks.
            (made,) = kling_sandbox.ledger["tasks"]
            sent = kling_sandbox.task(made["id"])["callbacks"]
            answers = [attempt["answer"] for letter in sent for attempt in letter["attempts"]]
            assert answers == [200] * len(answers) != []
            found = await client.get("/homing/v1/tasks/1", headers=key_of(folder) if module != "studio" else {})
            assert found.status_code == (404 if module == "studio" else 200)
            refused = await client.post("/orders/2", params={"prompt": ""})
            if module == "shop":
                assert (refused.status_code, "prompt" in refused.json()["detail"]) == (400, True)
            if module == "press":
                # It asks the provider itself, tells what that said, and sends no number twice.
                assert (refused.status_code, refused.json()) == (200, {"task": "2", "status": "rejected"})
                assert (await client.post("/orders/1", params=ORDER)).status_code == 409
                assert len(kling_sandbox.ledger["tasks"]) == 1
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), IN_TIME)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
async def test_who_follows_the_events_does_not_hold_the_app_s_end_up(
    folder: Path, kling_sandbox: RunningSandbox, told: signal.Signals
) -> None:
    async with (
        running(folder, *uvicorn("shop"), sandbox=kling_sandbox) as (process, url),
        httpx.AsyncClient(base_url=f"{url}/homing", trust_env=False, timeout=30) as client,
        client.stream("GET", "/v1/events", headers={"accept": "text/event-stream"} | key_of(folder)) as stream,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == ": homing"
        process.send_signal(told)
        assert [line async for line in lines]
        await asyncio.wait_for(process.wait(), IN_TIME)


async def test_script_of_the_page_prints_the_status(folder: Path, kling_sandbox: RunningSandbox) -> None:
    environ = {"HOMING_KLING_BASE_URL": kling_sandbox.base_url, "HOMING_KLING_API_KEY": kling_sandbox.api_key}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "script.py", cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE
    )

    out, _ = await asyncio.wait_for(process.communicate(), 60)

    assert (process.returncode, out.decode()) == (0, "succeeded\n")


async def test_a_function_that_the_settings_name_is_told_by_a_homing_that_is_served(
    folder: Path, kling_sandbox: RunningSandbox
) -> None:
    page = (ROOT / "docs" / "how-to" / "embed.md").read_text()
    (sinks,) = re.findall(r"^HOMING_SINKS='(python:\S+)' homing serve$", page, re.MULTILINE)
    where = {"HOMING_PUBLIC_URL": "{url}", "HOMING_SINKS": sinks}
    came = folder / "results.jsonl"
    async with running(folder, "homing", "serve", sandbox=kling_sandbox, **where) as (_, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post("/kling/v1/images/omni-image", json=ORDER, headers=key_of(folder))
            assert answer.status_code == 200, answer.text

        async def told() -> bool:
            return came.exists() and kling_sandbox.base_url in came.read_text()

        await until(told)
