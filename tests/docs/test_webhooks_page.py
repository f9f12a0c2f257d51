"""The receiver from docs/how-to/consume-webhooks.md, run unchanged, with webhooks from the real sink."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.builders import a_task
from tests.support.conditions import until
from tests.support.fakes import new_secret
from tests.support.published_events import an_event
from tracker.delivery.sinks.base import DELIVERED
from tracker.delivery.sinks.webhook import Webhook
from tracker.model.clock import utc_now
from tracker.model.event import PublishedEvent
from tracker.model.sinks import SinkSpec
from tracker.model.targets import read_allowed
from tracker.service.sink_secrets import SinkSecrets
from tracker.transport import Poster

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "consume-webhooks.md"
SECRET = "whsec_bWFkZS11cC13ZWJob29rLXNlY3JldC0zMi1ieXRlcyE="
ANOTHER = "whsec_YW5vdGhlci1tYWRlLXVwLXdlYmhvb2stc2VjcmV0LTMy"


@asynccontextmanager
async def receiver(folder: Path) -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """Run the page's program. Yield its output and its port."""
    _, program = PAGE.read_text().split("```python\n")
    (folder / "receiver.py").write_text(program.partition("```")[0])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "receiver.py"),
        cwd=folder,
        env={**os.environ, "SECRET": SECRET, "PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None

    async def up() -> bool:
        assert process.returncode is None
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return False
        writer.close()
        return True

    try:
        await until(up)
        yield process.stdout, port
    finally:
        process.kill()
        await process.wait()


def webhook(port: int, secret: str) -> Webhook:
    spec = SinkSpec(name="shop", scheme="http", target=f"http://127.0.0.1:{port}/hook", address="http://…")
    return Webhook(
        spec,
        source="urn:homing",
        secrets=SinkSecrets(new_secret, {"shop": (secret,)}),
        poster=Poster(read_allowed(("127.0.0.1",))),
        clock=utc_now,
    )


def event_of(number: int, version: int) -> PublishedEvent:
    return an_event(a_task(number, version=version), cursor=version)


async def test_page_consumer_handles_each_event_once(tmp_path: Path) -> None:
    waves = [
        [event_of(1, 2), event_of(2, 2)],
        [event_of(1, 2)],
        [event_of(1, 3)],
        [event_of(1, 2), event_of(2, 3)],
        [event_of(1, 4)],
    ]
    async with receiver(tmp_path) as (out, port):
        other_sink = webhook(port, ANOTHER)
        await other_sink.open()
        assert [outcome.error for outcome in await other_sink.send([event_of(1, 9)])] == ["401 Unauthorized"]
        await other_sink.close()
        sink = webhook(port, SECRET)
        await sink.open()
        for wave in waves:
            assert await sink.send(wave) == [DELIVERED] * len(wave)
        await sink.close()
        lines = [(await asyncio.wait_for(out.readline(), 30)).decode().split() for _ in range(5)]
    first, second = (event_of(number, 2).subject for number in (1, 2))
    assert [int(version) for _, task, version in lines if task == first] == [2, 3, 4]
    assert [int(version) for _, task, version in lines if task == second] == [2, 3]
