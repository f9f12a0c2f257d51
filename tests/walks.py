"""How far a reader has to go: how many files and functions one request enters. Run ``python -m tests.walks``.

Each walk is one real request on a real SQLite file, over HTTP where it comes or goes by HTTP. The count is of functions
of ``receiver``, ``tracker`` and ``homing`` (without the sandbox) that are entered meanwhile, in whatever thread.
Expressions that Python runs as functions, such as comprehensions, do not count. A walk begins and ends when nothing
runs any more, so that it has all of its own work and none of another request's.

The second pair of numbers leaves out the two layers that a reader may take as a library: ``homing/server`` (HTTP on
uvicorn) and ``tracker/storage/engine`` (how a transaction runs). With ``--list`` each walk also prints its functions,
in the order in which they are first entered.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
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
LIBRARIES: Final = ("homing/server/", "tracker/storage/engine/")
# Nothing runs any more where no function was entered for so long.
QUIET: Final = timedelta(seconds=0.2)


@dataclass(slots=True)
class Walk:
    """What was entered, as file and function; ``moves`` counts how often the next function was in another file.

    ``calls`` counts all calls, also those outside of a walk.
    """

    functions: dict[tuple[str, str], None] = field(default_factory=dict)
    moves: int = 0
    calls: int = 0
    walking: bool = False
    last: str = ""

    def step(self, frame: FrameType, event: str, _argument: object) -> None:
        """Note a call; this is a profile function (``sys.setprofile``)."""
        if event != "call":
            return
        code = frame.f_code
        file = code.co_filename.removeprefix(f"{ROOT}/")
        counts = file.partition("/")[0] in PACKAGES and not file.startswith("homing/sandbox")
        if not counts or code.co_name.startswith("<"):
            return
        self.calls += 1
        if self.walking:
            self.functions[file, code.co_qualname] = None
            self.moves += file != self.last
            self.last = file

    @asynccontextmanager
    async def walked(self) -> AsyncIterator[None]:
        """Note what the block enters, and what it leaves to be done behind it."""
        await self._quiet()
        self.functions, self.moves, self.walking, self.last = {}, 0, True, ""
        try:
            yield
            await self._quiet()
        finally:
            self.walking = False

    async def _quiet(self) -> None:
        """Wait until nothing runs any more."""
        before = -1
        while self.calls != before:
            before = self.calls
            await asyncio.sleep(QUIET.total_seconds())

    def counts(self, *, without: tuple[str, ...] = ()) -> tuple[int, int]:
        """Return the number of files and of functions, without those of some folders."""
        counted = [file for file, _ in self.functions if not file.startswith(without)]
        return len(set(counted)), len(counted)


async def callback(homing: HomingServer, walk: Walk) -> None:
    for name in ("first", "walk"):
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id=name)
        body = {"task_id": f"theirs {name}", "task_status": "processing", "task_info": {"external_task_id": name}}
        # The first one does what is done once only.
        async with walk.walked():
            answer = await homing.client.post(str(expected.callback_url), json=body)
        assert answer.is_success, answer.text


async def submission(homing: HomingServer, walk: Walk) -> None:
    async with walk.walked():
        await homing.created()


async def task_read(homing: HomingServer, walk: Walk) -> None:
    ref = await homing.created()
    async with walk.walked():
        answer = await homing.client.get(f"/v1/tasks/{ref}")
    assert answer.is_success, answer.text


async def delivery(homing: HomingServer, walk: Walk) -> None:
    async with WebReceiver() as receiver:
        address = f"{receiver.url}#name=shop&from=beginning"
        settings = Settings.model_validate({"sinks": address, "allowed_targets": "127.0.0.1/32"})
        ((new, sink),) = [each for each in sinks_of(settings, homing.tracker) if each[0].name == "shop"]
        store, clock = homing.tracker.store, homing.tracker.clock
        await store.sinks.register([new], now=clock())
        # Long enough for a slow machine.
        timing = replace(RELAY_TIMING, lease=timedelta(minutes=10))
        state = await store.sinks.acquire_lease(new.name, owner="walk", now=clock(), lease=timing.lease)
        assert state is not None
        worker = SinkWorker(
            store.progress,
            homing.tracker.feed,
            sink,
            state,
            owner="walk",
            clock=clock,
            chance=lambda: 0.5,
            timing=timing,
        )
        await worker.open(asyncio.Event())
        for _ in range(2):
            await homing.created()
            assert await homing.tracker.feed.beyond(worker.cursor, within=timedelta(seconds=10))
            # The first one does what is done once only.
            async with walk.walked():
                await worker.new_events.deliver()
        assert len(receiver.got) > 1
        await worker.finish()
        await sink.close()


async def reconciler_round(homing: HomingServer, walk: Walk) -> None:
    await homing.know_lookups()
    for _ in range(2):
        await homing.created()
    for _ in range(2):
        homing.clock.ahead += timedelta(hours=2)
        # The first one does what is done once only.
        async with walk.walked():
            counts = await homing.reconciler.run_once()
        assert counts.claimed > 1


WALKS: Final[dict[str, Callable[[HomingServer, Walk], Awaitable[None]]]] = {
    "one callback": callback,
    "one submission": submission,
    "one read of a task": task_read,
    "one webhook delivery": delivery,
    "one reconciler round, two stale tasks": reconciler_round,
}


async def measured(walk: Walk, go: Callable[[HomingServer, Walk], Awaitable[None]]) -> None:
    with TemporaryDirectory() as folder, serve_in_thread(SandboxSettings(held=True, callbacks=False)) as sandbox:
        async with homing_server(Path(folder), sandbox.base_url, policy=SILENT, loops=False) as homing:
            await homing.created()  # what is done once only, is done
            await go(homing, walk)


def main() -> None:
    """Print a line for each walk."""
    walk = Walk()
    # Before any thread begins: a profile function is a thread's own.
    threading.setprofile(walk.step)
    sys.setprofile(walk.step)
    sys.stdout.write(f"{'':65}without {', '.join(LIBRARIES)}\n")
    sys.stdout.write(f"{'walk':40}{'files':>7}{'functions':>11}{'moves':>7}{'files':>7}{'functions':>11}\n")
    for name, go in WALKS.items():
        # On an event loop of its own: no timer of another walk is left.
        asyncio.run(measured(walk, go))
        (files, functions), (own_files, own) = walk.counts(), walk.counts(without=LIBRARIES)
        sys.stdout.write(f"{name:40}{files:>7}{functions:>11}{walk.moves:>7}{own_files:>7}{own:>11}\n")
        if "--list" in sys.argv:
            sys.stdout.writelines(f"    {file}  {function}\n" for file, function in walk.functions)


if __name__ == "__main__":
    main()
