"""One Homing process: the receiver, the gateway and the API in one app, and the loops; or only some of these roles."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from random import Random
from types import TracebackType
from typing import Final, Self

from starlette.applications import Starlette
from starlette.types import ASGIApp

from homing.server.connections import Bounds, max_connections, open_files
from homing.server.local_key import LocalKey, key_file, local_key
from homing.server.loops import Loop, looping
from homing.server.serving_lock import Held, ServingLock
from homing.server.web_server import Stop, address, listen, running, when_stopped
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tracker.api import Access, AccessGuard, Limits, WrongKeys, check_keys, guarded_routes, health_routes
from tracker.api.http.capacity import DEFAULT_CONNECTIONS
from tracker.app import LARGEST_BODIES, create_tracker, reconciler_of, sinks_of
from tracker.delivery.relay import Relay
from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.subscriber import Subscriber
from tracker.delivery.timing import RELAY_TIMING, RelayTiming
from tracker.errors import SettingsError
from tracker.loops.expiry import Expiry
from tracker.loops.lost_calls import LostCalls
from tracker.loops.membership import HEARTBEAT_TIMING, HeartbeatTiming, Membership, this_process
from tracker.loops.retention import Retention
from tracker.model.clock import SteeredClock
from tracker.model.servers import Part
from tracker.model.sinks import SinkSpec
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

ALL_PARTS: Final = frozenset(Part)


@asynccontextmanager
async def joined(settings: Settings, *, parts: Collection[Part]) -> AsyncIterator[tuple[Tracker, Membership]]:
    """Open the database as one of the processes that serve it. For a SQLite file the caller holds the serving lock."""
    clock = SteeredClock()
    tracker = create_tracker(settings, clock=clock)
    async with tracker, membership_of(tracker, clock, parts=parts) as membership:
        yield tracker, membership


def membership_of(
    tracker: Tracker,
    clock: SteeredClock,
    *,
    parts: Collection[Part] = ALL_PARTS,
    heartbeat_timing: HeartbeatTiming = HEARTBEAT_TIMING,
) -> Membership:
    """Create the membership of a tracker's process. ``clock`` is the tracker's."""
    return Membership(
        tracker.store,
        tracker.submission.notes,
        clock,
        me=this_process(tracker.owner, parts),
        margin=tracker.policy.lease_margin,
        heartbeat_timing=heartbeat_timing,
    )


def relay_of(
    tracker: Tracker,
    sinks: Sequence[tuple[SinkSpec, Sink]],
    *,
    timing: RelayTiming = RELAY_TIMING,
    chance: Callable[[], float] | None = None,
) -> Relay:
    """Create the relay of a tracker's process."""
    return Relay(
        tracker.store,
        tracker.feed,
        sinks,
        owner=tracker.owner,
        clock=tracker.clock,
        timing=timing,
        chance=chance or Random(tracker.random_bytes(16)).random,  # noqa: S311 - spreads attempts, and hides nothing
    )


class Homing:
    """The roles of one process over the database of the settings. ``async with`` opens everything.

    Create it next to your own app, mount ``app`` there, and pass ``lifespan`` to it. See docs/how-to/embed.md.
    ``access`` replaces the keys and host names of the settings, ``policy`` the default delays. If there is no key, the
    one next to the SQLite file is read or created on entering (``local_key``). ``subscribers`` get events in addition
    to the sinks of the settings. Without ``deliver_events`` this process delivers none. The server accepts
    ``connections`` at once. Entering takes ``lock``, the serving lock of the database file. You may replace it with a
    lock that is already held.

    Raises: SettingsError, if a sink or a subscriber is invalid, or if PostgreSQL is used without an API key. Entering
    raises it if another process serves the file.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        access: Access | None = None,
        policy: Policy | None = None,
        parts: Collection[Part] = ALL_PARTS,
        heartbeat_timing: HeartbeatTiming = HEARTBEAT_TIMING,
        subscribers: Sequence[Subscriber] = (),
        deliver_events: bool = True,
        connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        self._settings = settings
        self._parts = parts
        self.lock = ServingLock(settings.database_file)
        clock = SteeredClock()
        self.tracker = create_tracker(settings, policy=policy, clock=clock, subscribers=subscribers)
        self._membership = membership_of(self.tracker, clock, parts=parts, heartbeat_timing=heartbeat_timing)
        self.tracker.budgets.follow(self._membership.share)
        self.local_key: LocalKey | None = None
        access = access or access_of(settings)
        self._makes_key = Part.API in parts and _makes_key(settings, access)
        self._guard = AccessGuard(access, WrongKeys(self.tracker.monotonic))
        self.app = _app(self.tracker, settings, self._guard, parts, connections)
        if subscribers and Part.LOOPS not in parts:
            raise SettingsError("Subscribers need the loops. Add Part.LOOPS to the parts of this process")
        self._relay: Relay | None = None
        if deliver_events and Part.LOOPS in parts:
            # An invalid sink is reported before anything is opened.
            self._relay = relay_of(self.tracker, sinks_of(settings, self.tracker, subscribers))
        self._open = AsyncExitStack()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve the database file as its only process. Raises SettingsError if another process serves it."""
        async with self:
            yield self

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002 - a lifespan is given its app
        """Run within an app that mounts this one. Pass this as its ``lifespan``, or enter it within your own.

        A server waits for its requests first, and then for the lifespan. So streams and long polls end when the process
        gets a stop signal. If you stop the server in another way, call ``tracker.feed.dismiss``.
        """
        async with self.serving():
            with when_stopped(self.tracker.feed.dismiss):
                yield

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            opening.enter_context(_held(self.lock, self._settings))
            if self._makes_key and self._settings.database_file is not None:
                self.local_key = local_key(self._settings.database_file)
                self._guard.add_key(self.local_key.key)
            await opening.enter_async_context(self.tracker)
            await opening.enter_async_context(self._membership)
            if self._relay is not None:
                # This comes before the first request, so that a new sink gets every later event.
                await self._relay.open()
            await opening.enter_async_context(looping(self._loops()))
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def _loops(self) -> Iterator[Loop]:
        if Part.LOOPS not in self._parts:
            # Without the other loops, this process still plans the first poll of what it submits.
            yield self.tracker.learner
            return
        yield reconciler_of(self.tracker)
        if self._relay is not None:
            yield self._relay
        yield Expiry(self.tracker.store, self.tracker.providers, self.tracker.feed, clock=self.tracker.clock)
        yield LostCalls(self.tracker.helpers)
        if self._settings.retention is not None:
            yield Retention(self.tracker.store, clock=self.tracker.clock, keep=self._settings.retention)


def _app(
    tracker: Tracker, settings: Settings, guard: AccessGuard, parts: Collection[Part], connections: int
) -> ASGIApp:
    if Part.API in parts:
        routes = guarded_routes(tracker, guard, limits=limits_of(settings, connections))
    else:
        # A receiver alone is public. Its health check shows that it answers, and nothing about the database.
        routes = health_routes(tracker, ready=Part.LOOPS in parts)
    app = Starlette(routes=routes)
    if Part.RECEIVER not in parts:
        return app
    return create_receiver(tracker, ReceiverSettings.from_settings(settings), otherwise=app)


def limits_of(settings: Settings, connections: int) -> Limits:
    """Return the limits of requests for a server with this number of connections."""
    return Limits(
        gateway_body=settings.body_limit,
        body_capacity=max(Limits().body_capacity, LARGEST_BODIES * settings.body_limit),
        connections=connections,
        waits_per_client=settings.streams_per_client,
    )


def access_of(settings: Settings) -> Access:
    """Return the API keys and the host names of the settings."""
    return Access(
        api_keys=settings.api_keys,
        client_keys=settings.client_keys,
        host=settings.host,
        public_url=settings.public_url,
        hosts=settings.allowed_hosts,
    )


def _makes_key(settings: Settings, access: Access) -> bool:
    """Return whether to use the key next to the SQLite file, which is the case if no other is configured.

    Raises: SettingsError, if there is no key to use, or a configured one is too weak.
    """
    if access.api_keys or access.client_keys or settings.database_file is None:
        check_keys(access)
        return False
    return True


async def serve(
    settings: Settings, *, announce: Callable[[str], None], parts: Collection[Part] = ALL_PARTS, show_key: bool = False
) -> int:
    """Serve until SIGTERM (returns 0) or Ctrl-C (returns 130). ``announce`` gets the line that says what runs where.

    If an API key was created, a second line shows the key with ``show_key``, or else only its file.

    Raises: SettingsError, if the address is taken, if another process serves the database file, or if PostgreSQL is
    used without an API key.
    """
    if Part.API in parts:
        _makes_key(settings, access_of(settings))
    connections = max_connections(open_files())
    homing = Homing(settings, parts=parts, connections=connections)
    bounds = Bounds(connections=connections)
    with _held(homing.lock, settings), closing(listen(settings.host, settings.port)) as listener:
        url = address(listener)
        async with homing, running(homing.app, listener, bounds=bounds, ending=homing.tracker.feed.dismiss) as serving:
            stop = Stop()
            # Commands read the URL of the API from the lock file.
            homing.lock.announce(url if Part.API in parts else None)
            announce(headline(settings, url, parts))
            if homing.local_key is not None and homing.local_key.made:
                announce(key_notice(homing.local_key, url, show_key=show_key))
            return await stop.wait(serving)


def headline(settings: Settings, url: str, parts: Collection[Part] = ALL_PARTS) -> str:
    """Return one line that says what runs where."""
    facts = [f"Homing serves {url}"]
    if set(parts) != ALL_PARTS:
        facts.append(f"only {' and '.join(part.value for part in Part if part in parts)}")
    facts.append(f"database {settings.database_name}")
    facts.append(
        f"callbacks at {settings.public_url}" if settings.public_url else "no callbacks requested, polling only"
    )
    if settings.sinks and Part.LOOPS in parts:
        facts.append(f"events to {', '.join(spec.name for spec in settings.sinks)}")
    if Part.API in parts:
        keys = len(settings.api_keys) + len(settings.client_keys)
        facts.append(f"{keys} keys" if keys > 1 else "1 key" if keys else f"API key in {_key_file(settings)}")
    if not settings.has_credential and set(parts) != {Part.RECEIVER}:
        facts.append("no provider credential: set HOMING_KLING_API_KEY or HOMING_REPLICATE_API_KEY to submit and poll")
    return " · ".join(facts)


def key_notice(made: LocalKey, url: str, *, show_key: bool) -> str:
    """Return the line about a new API key; it contains the key only if ``show_key``."""
    if show_key:
        return f'Made an API key, kept in {made.file}: curl {url}/v1/tasks -H "Authorization: Bearer {made.key.key}"'
    return f"Made an API key, kept in {made.file}"


def _key_file(settings: Settings) -> str:
    return str(key_file(settings.database_file)) if settings.database_file is not None else "no file"


@contextmanager
def _held(lock: ServingLock, settings: Settings) -> Iterator[None]:
    try:
        with lock:
            yield
    except Held as held:
        where = f" at {held.holder.url}" if held.holder.url else ""
        raise SettingsError(
            f"process {held.holder.pid} already serves {settings.database_name}{where}. "
            "Stop it first, or set another HOMING_DATABASE_URL"
        ) from None
