"""One simulated Homing process: everything that `homing serve` runs, on the world's loop, clocks and chances."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp

from homing.serve import access_of, limits_of, membership_of, relay_of
from homing.server.loops import looping
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.simulation.http_caller import HOST
from tests.simulation.inline_work import close_connections
from tests.simulation.provider import API_KEY, WEBHOOK_SECRET, Provider
from tests.simulation.sinks import SETTING, Destinations, SimulatedPoster
from tests.simulation.virtual_loop import Life
from tests.simulation.world import World
from tracker.api import AccessGuard, WrongKeys, guarded_routes
from tracker.api.http.capacity import DEFAULT_CONNECTIONS
from tracker.app import create_tracker, reconciler_of
from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.callback_filter import CALLBACKS_SPEC
from tracker.delivery.sinks.client_callbacks import Callbacks
from tracker.delivery.sinks.webhook import Webhook
from tracker.delivery.timing import RELAY_TIMING
from tracker.loops.expiry import Expiry
from tracker.model.clock import SteeredClock
from tracker.model.keys import NamedKey
from tracker.model.sinks import SinkSpec
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

CLIENTS: Final = ("atelier", "bureau", "cinema")
KEYS: Final = {name: f"simulated-key-of-{name}" for name in (*CLIENTS, "operator")}
DEADLINE: Final = timedelta(minutes=4)
# The durations of a real deployment, except that a history does not wait for hours: nothing is polled so seldom, and
# an idle process looks less often.
POLICY: Final = Policy(
    reconciler_idle=timedelta(seconds=2),
    feed_scan_interval=timedelta(seconds=20),
    greatest_gap=timedelta(seconds=60),
    expired_gap=timedelta(seconds=60),
    deadline=DEADLINE,
    conflict_gap=timedelta(seconds=60),
    repeat_within=timedelta(minutes=3),
    learn_every=timedelta(seconds=60),
    budget=120,
    client_budget=60,
    lists_above=1,
)
TIMING: Final = replace(
    RELAY_TIMING,
    idle=timedelta(seconds=20),
    hurry=timedelta(seconds=30),
    lease=timedelta(seconds=60),
    renew=timedelta(seconds=20),
    acquire=timedelta(seconds=5),
    settle=timedelta(seconds=3),
    gather=timedelta(seconds=1),
)


def settings_for(database: Path) -> Settings:
    """Return the settings of every process of a history."""
    return Settings.model_validate(
        {
            "database_url": f"sqlite:///{database}",
            "public_url": f"https://{HOST}",
            "api_keys": tuple(NamedKey(name=name, key=key, sees_all=name == "operator") for name, key in KEYS.items()),
            "kling_api_key": API_KEY,
            "kling_base_url": "https://provider.example",
            "kling_webhook_secrets": (WEBHOOK_SECRET,),
            "sinks": SETTING,
        }
    )


class Process:
    """One run of Homing. ``start`` it; then it answers at ``app`` until it is stopped or killed."""

    def __init__(
        self, world: World, number: int, database: Path, *, provider: Provider, destinations: Destinations
    ) -> None:
        self.world = world
        self.life = Life(f"process {number}")
        self.app: ASGIApp | None = None
        self.tracker: Tracker | None = None
        self._number = number
        self._settings = settings_for(database)
        self._provider = provider
        self._destinations = destinations
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, and return once it answers. Raises what keeps it from starting."""
        ready = asyncio.get_running_loop().create_future()
        self.life.connections.append(ready)
        self._running = self.life.start(self._run(ready))
        await ready

    async def stop(self) -> None:
        """Stop cleanly, as on SIGTERM: take no new requests, and answer those that have begun."""
        self.app = None
        if self.tracker is not None:
            self.tracker.feed.dismiss()
        if self.life.connections:
            await asyncio.wait(self.life.connections)
        self._stop.set()
        if self._running is not None:
            await asyncio.wait({self._running})
        self.app = None
        self.life.alive = False

    def kill(self) -> None:
        """Stop at once, wherever the process is."""
        self.app = None
        self.life.kill()
        if self.tracker is not None:
            close_connections(self.tracker.store)

    async def _run(self, ready: "asyncio.Future[None]") -> None:
        try:
            await self._serve(ready)
        except Exception as error:  # noqa: BLE001 - a start that fails is an outcome
            self.world.note(f"{self.life.name} ended: {type(error).__name__} {error}")
            if ready.done():
                self.world.internal_errors.append(f"{self.life.name} ended: {type(error).__name__} {error}")
            else:
                ready.set_exception(error)

    async def _serve(self, ready: "asyncio.Future[None]") -> None:
        world, settings = self.world, self._settings
        clock = SteeredClock(world.clock)
        tracker = create_tracker(
            settings,
            policy=POLICY,
            clock=clock,
            monotonic=world.monotonic,
            random_bytes=world.random_bytes(self.life.name),
            transport=self._provider,
        )
        self.tracker = tracker
        guard = AccessGuard(access_of(settings), WrongKeys(world.monotonic))
        api = Starlette(routes=guarded_routes(tracker, guard, limits=limits_of(settings, DEFAULT_CONNECTIONS)))
        app = create_receiver(tracker, ReceiverSettings.from_settings(settings), otherwise=api)
        relay = relay_of(tracker, self._sinks(tracker), timing=TIMING)
        expiry = Expiry(tracker.store, tracker.providers, tracker.feed, clock=clock)
        async with tracker, membership_of(tracker, clock) as membership:
            tracker.budgets.follow(membership.share)
            await relay.open()
            async with looping((reconciler_of(tracker), relay, expiry)):
                self.app = app
                world.note(f"{self.life.name} answers")
                if not ready.done():
                    ready.set_result(None)
                await self._stop.wait()
                self.app = None

    def _sinks(self, tracker: Tracker) -> list[tuple[SinkSpec, Sink]]:
        secrets, poster, settings = tracker.sink_secrets, SimulatedPoster(self._destinations), self._settings
        sinks: list[tuple[SinkSpec, Sink]] = [
            (CALLBACKS_SPEC, Callbacks(secrets=secrets, poster=poster, clock=tracker.clock))
        ]
        for spec in settings.sinks:
            webhook = Webhook(spec, source=settings.source, secrets=secrets, poster=poster, clock=tracker.clock)
            sinks.append((spec, webhook))
        return sinks
