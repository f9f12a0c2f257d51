"""How far a reader has to go: how many files and functions one request enters. Run ``python -m tests.walks``.

Each walk is one real request on a real SQLite file, over HTTP where it comes or goes by HTTP. The count is of functions
of ``receiver``, ``tracker`` and ``homing`` (without the sandbox) that are entered meanwhile, in whatever thread.
Expressions that Python runs as functions, such as comprehensions, do not count. With ``--list`` each walk also prints
its functions, in the order in which they are first entered.
"""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final

from homing.sandbox import SandboxSettings, serve_in_thread
from tests.support.homing_server import ANYBODY, KIND, SILENT, HomingServer, homing_server
from tests.support.web_receiver import WebReceiver
from tracker.app import sinks_of
from tracker.delivery.timing import RELAY_TIMING
from tracker.delivery.worker import SinkWorker
from tracker.settings import Settings

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("receiver", "tracker", "homing")


@dataclass(slots=True)
class Walk:
    """What was entered; ``moves`` counts how often the next function was in another file."""

    files: set[str] = field(default_factory=set)
    functions: dict[tuple[str, str], None] = field(default_factory=dict)
    moves: int = 0
    walking: bool = False
    last: str = ""

    def step(self, frame: FrameType, event: str, _argument: object) -> None:
        """Note a call; this is a profile function (``sys.setprofile``)."""
        if not self.walking or event != "call":
            return
        code = frame.f_code
        file = code.co_filename.removeprefix(f"{ROOT}/")
        counts = file.partition("/")[0] in PACKAGES and not file.startswith("homing/sandbox")
        if counts and not code.co_name.startswith("<"):
            self.files.add(file)
            self.functions[file, code.co_qualname] = None
            self.moves += file != self.last
            self.last = file

    @contextmanager
    def walked(self) -> Iterator[None]:
        """Note what the block enters."""
        self.files, self.functions, self.moves, self.walking = set(), {}, 0, True
        try:
            yield
        finally:
            self.walking = False


async def callback(homing: HomingServer, walk: Walk) -> None:
    for name in ("first", "walk"):
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id=name)
        body = {"task_id": f"theirs {name}", "task_status": "processing", "task_info": {"external_task_id": name}}
        # The first one does what is done once only.
        with walk.walked():
            answer = await homing.client.post(str(expected.callback_url), json=body)
        assert answer.is_success, answer.text


async def submission(homing: HomingServer, walk: Walk) -> None:
    with walk.walked():
        await homing.created()


async def task_read(homing: HomingServer, walk: Walk) -> None:
    ref = await homing.created()
    with walk.walked():
        answer = await homing.client.get(f"/v1/tasks/{ref}")
    assert answer.is_success, answer.text


async def delivery(homing: HomingServer, walk: Walk) -> None:
    async with WebReceiver() as receiver:
        address = f"{receiver.url}#name=shop&from=beginning"
        settings = Settings.model_validate({"sinks": address, "allowed_targets": "127.0.0.1/32"})
        ((new, sink),) = [each for each in sinks_of(settings, homing.tracker) if each[0].name == "shop"]
        store, clock = homing.tracker.store, homing.tracker.clock
        await store.sinks.register([new], now=clock())
        state = await store.sinks.acquire_lease(new.name, owner="walk", now=clock(), lease=RELAY_TIMING.lease)
        assert state is not None
        worker = SinkWorker(
            store.progress,
            homing.tracker.feed,
            sink,
            state,
            owner="walk",
            clock=clock,
            chance=lambda: 0.5,
            timing=RELAY_TIMING,
        )
        await worker.open(asyncio.Event())
        for _ in range(2):
            await homing.created()
            assert await homing.tracker.feed.beyond(worker.cursor, within=timedelta(seconds=10))
            await homing.tracker.submission.notes.flush()
            # The first one does what is done once only.
            with walk.walked():
                await worker.deliver_new()
        assert len(receiver.got) > 1
        await worker.finish()
        await sink.close()


async def reconciler_round(homing: HomingServer, walk: Walk) -> None:
    await homing.know_lookups()
    for _ in range(2):
        await homing.created()
    homing.clock.ahead += timedelta(hours=2)
    # The answers to the submissions are recorded after them, and belong to them.
    await homing.tracker.submission.notes.flush()
    with walk.walked():
        counts = await homing.reconciler.run_once()
    assert counts.claimed > 1


WALKS: Final[dict[str, Callable[[HomingServer, Walk], Awaitable[None]]]] = {
    "one callback": callback,
    "one submission": submission,
    "one read of a task": task_read,
    "one webhook delivery": delivery,
    "one reconciler round, two stale tasks": reconciler_round,
}


async def measured(walk: Walk, *, listed: bool) -> None:
    """Print a line for each walk; if ``listed`` also its functions."""
    sys.stdout.write(f"{'walk':40}{'files':>7}{'functions':>11}{'moves':>7}\n")
    for name, go in WALKS.items():
        with TemporaryDirectory() as folder, serve_in_thread(SandboxSettings(held=True, callbacks=False)) as sandbox:
            async with homing_server(Path(folder), sandbox.base_url, policy=SILENT, loops=False) as homing:
                await homing.created()  # what is done once only, is done
                await go(homing, walk)
        sys.stdout.write(f"{name:40}{len(walk.files):>7}{len(walk.functions):>11}{walk.moves:>7}\n")
        if listed:
            sys.stdout.writelines(f"    {file}  {function}\n" for file, function in walk.functions)


def main() -> None:
    walk = Walk()
    # Before any thread begins: a profile function is a thread's own.
    threading.setprofile(walk.step)
    sys.setprofile(walk.step)
    asyncio.run(measured(walk, listed="--list" in sys.argv))


if __name__ == "__main__":
    main()
