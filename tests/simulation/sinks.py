"""The destinations of events: webhooks behind a network that fails in every way, and what each received."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from tests.simulation.world import World
from tracker.errors import NotSent, ReplyLost
from tracker.model.targets import PUBLIC_ONLY
from tracker.transport import Answer, Poster

SINKS: Final = ("shop", "audit", "slow")
SETTING: Final = " ".join(f"https://{name}.example/hook#name={name}" for name in SINKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One webhook that came in whole."""

    webhook_id: str
    body: bytes
    # The time of the loop.
    at: float


class Destinations:
    """All endpoints of a history, by host."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.received: dict[str, list[Received]] = {}
        self.down_until: dict[str, float] = {}

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], within: timedelta) -> Answer:
        """Answer one webhook. Raises NotSent, or ReplyLost."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await self._answer(url, body, headers)
        except TimeoutError:
            raise ReplyLost("no answer in time") from None

    async def _answer(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        world, host = self.world, urlsplit(url).hostname or ""
        webhook_id = headers["webhook-id"]
        about = f"{host} {webhook_id}"
        await asyncio.sleep(world.between("webhook", 0.005, 0.2))
        if world.loop.time() < self.down_until.get(host, 0.0) or world.strikes("sink refuses", about):
            raise NotSent("connection refused")
        if world.strikes("sink busy", about):
            return Answer(
                status=world.choice("busy sink", (429, 500, 503)),
                retry_after=str(world.choice("again", ("", "2", "soon"))),
            )
        if world.strikes("sink drips", about):
            await asyncio.sleep(world.between("drip", 1.0, 14.0))
        cut_off = world.strikes("sink cuts off", about)
        self.received.setdefault(host, []).append(Received(webhook_id=webhook_id, body=body, at=world.loop.time()))
        world.note(f"webhook {host} {webhook_id}{' cut off' if cut_off else ''}")
        if cut_off:
            await asyncio.sleep(1.0)
            raise ReplyLost("the connection broke before an answer")
        if world.strikes("sink gone", about) and host != f"{SINKS[0]}.example":
            world.gone.add(host)
            return Answer(status=410)
        return Answer(status=204)


class SimulatedPoster(Poster):
    """Sends webhooks into the simulated network."""

    def __init__(self, destinations: Destinations) -> None:
        super().__init__(PUBLIC_ONLY)
        self._destinations = destinations

    async def open(self) -> None:
        """There is no connection pool."""

    async def close(self) -> None:
        """There is no connection pool."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, within: timedelta) -> Answer:
        return await self._destinations.post(url, body, headers, within)
