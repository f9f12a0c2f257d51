"""One process: receiver, gateway and API in one app, the loops beside it, over one database; or only some of them."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from types import TracebackType
from typing import Final, Self

from starlette.applications import Starlette
from starlette.types import ASGIApp

from homing.server.connections import Bounds, most_connections, open_files
from homing.server.local_key import LocalKey, key_file, local_key
from homing.server.loops import Loop, looping
from homing.server.serving_lock import Held, ServingLock
from homing.server.web_server import Stop, address, listen, running, when_stopped
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tracker.api import Access, AccessGuard, Limits, check_keys, guarded_routes, health_routes
from tracker.api.http.capacity import DEFAULT_CONNECTIONS
from tracker.app import LARGEST_BODIES, create_tracker, reconciler_of, sinks_of
from tracker.delivery.relay import Relay
from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.subscriber import Subscriber
from tracker.delivery.timing import RELAY_TIMING, RelayTiming
from tracker.errors import SettingsError
from tracker.loops.expiry import Expiry
from tracker.loops.membership import RHYTHM, Membership, Rhythm, this_process
from tracker.loops.retention import Retention
from tracker.model.clock import SteeredClock
from tracker.model.servers import Part
from tracker.model.sinks import SinkSpec
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

ALL: Final = frozenset(Part)


@asynccontextmanager
async def joined(settings: Settings, *, parts: Collection[Part]) -> AsyncIterator[tuple[Tracker, Membership]]:
    """Open the settings' database as one of the processes that serve it; that of a file holds the serving lock."""
    clock = SteeredClock()
    tracker = create_tracker(settings, clock=clock)
    async with tracker, membership_of(tracker, clock, parts=parts) as membership:
        yield tracker, membership


def membership_of(
    tracker: Tracker, clock: SteeredClock, *, parts: Collection[Part] = ALL, rhythm: Rhythm = RHYTHM
) -> Membership:
    """Make the membership of a tracker's process; ``clock`` is the tracker's."""
    return Membership(
        tracker.store,
        tracker.submission.notes,
        clock,
        me=this_process(tracker.owner, parts),
        margin=tracker.policy.lease_margin,
        rhythm=rhythm,
    )


def relay_of(
    tracker: Tracker,
    sinks: Sequence[tuple[SinkSpec, Sink]],
    *,
    timing: RelayTiming = RELAY_TIMING,
    chance: Callable[[], float] | None = None,
) -> Relay:
    """Make the relay of a tracker's process."""
    return Relay(
        tracker.store, tracker.feed, sinks, owner=tracker.owner, clock=tracker.clock, timing=timing, chance=chance
    )


class Homing:
    """The parts that run together over the settings' database. Nothing is opened before ``async with``.

    So it can be made where an app of your own is, ``app`` mounted into that, and ``lifespan`` given to it; see
    docs/how-to/embed.md. ``access`` replaces what the settings say about who may call, ``policy`` the usual delays.
    Where neither has a key, the one beside the SQLite file is read or made as it is entered (``local_key``).
    ``subscribers`` are told beside the sinks of the settings; where not ``tells`` nobody is, by this process. The
    server takes ``connections`` at once. Entering it takes ``lock``, the serving lock of the settings' file; a lock
    that is held already may be put in its place.

    Raises SettingsError where a sink or a subscriber cannot be, and where a database that is a server has no API key;
    entering it raises SettingsError where another process serves the file.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        access: Access | None = None,
        policy: Policy | None = None,
        parts: Collection[Part] = ALL,
        rhythm: Rhythm = RHYTHM,
        subscribers: Sequence[Subscriber] = (),
        deliver_events: bool = True,
        connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        self._settings = settings
        self._parts = parts
        self.lock = ServingLock(settings.database_file)
        clock = SteeredClock()
        self.tracker = create_tracker(settings, policy=policy, clock=clock, subscribers=subscribers)
        self._membership = membership_of(self.tracker, clock, parts=parts, rhythm=rhythm)
        self.tracker.budget.follow(self._membership.share)
        self.local_key: LocalKey | None = None
        access = access or access_of(settings)
        self._makes_key = Part.API in parts and _makes_key(settings, access)
        self._guard = AccessGuard(access)
        self.app = _app(self.tracker, settings, self._guard, parts, connections)
        if subscribers and Part.LOOPS not in parts:
            raise SettingsError("subscribers are told by the loops: let this process run them too")
        self._relay: Relay | None = None
        if deliver_events and Part.LOOPS in parts:
            # A sink that cannot be is known before anything is opened.
            self._relay = relay_of(self.tracker, sinks_of(settings, self.tracker, subscribers))
        self._open = AsyncExitStack()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Run as the one process that serves the settings' file; SettingsError where another one does."""
        async with self:
            yield self

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002 - a lifespan is given its app
        """Run within an app that mounts us, which takes this for its ``lifespan``, or enters it within its own.

        A server first waits for its requests to end, and only then for the lifespan. So streams and those who wait are
        let go when the process is told to stop; who stops a server in another way calls ``tracker.feed.dismiss``.
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
                # Before the first request: a sink that begins now is told of all that comes after it.
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
            # Without the other loops it still plans the first look at what it submits.
            yield self.tracker.learner
            return
        yield reconciler_of(self.tracker)
        if self._relay is not None:
            yield self._relay
        yield Expiry(self.tracker.store, self.tracker.providers, self.tracker.feed, clock=self.tracker.clock)
        if self._settings.retention is not None:
            yield Retention(self.tracker.store, clock=self.tracker.clock, keep=self._settings.retention)


def _app(
    tracker: Tracker, settings: Settings, guard: AccessGuard, parts: Collection[Part], connections: int
) -> ASGIApp:
    if Part.API in parts:
        routes = guarded_routes(tracker, guard, limits=limits_of(settings, connections))
    else:
        # A receiver alone faces strangers: they learn that it answers, and nothing about the database.
        routes = health_routes(tracker, ready=Part.LOOPS in parts)
    app = Starlette(routes=routes)
    if Part.RECEIVER not in parts:
        return app
    return create_receiver(tracker, ReceiverSettings.from_settings(settings), otherwise=app)


def limits_of(settings: Settings, connections: int) -> Limits:
    """Return what requests may hold at a server that takes so many connections."""
    return Limits(
        gateway_body=settings.body_limit,
        body_room=max(Limits().body_room, LARGEST_BODIES * settings.body_limit),
        connections=connections,
        waits_per_client=settings.streams_per_client,
    )


def access_of(settings: Settings) -> Access:
    """Return what the settings say about who may call and under which names."""
    return Access(
        api_keys=settings.api_keys,
        client_keys=settings.client_keys,
        host=settings.host,
        public_url=settings.public_url,
        hosts=settings.allowed_hosts,
    )


def _makes_key(settings: Settings, access: Access) -> bool:
    """Return whether the key beside the SQLite file is the one to use, which is so where no other is configured.

    Raises: SettingsError, where there is none to use, or a configured one is too weak.
    """
    if access.api_keys or access.client_keys or settings.database_file is None:
        check_keys(access)
        return False
    return True


async def serve(
    settings: Settings, *, announce: Callable[[str], None], parts: Collection[Part] = ALL, show_key: bool = False
) -> int:
    """Serve until SIGTERM (gives 0) or Ctrl-C (130); ``announce`` gets the line that says what runs where.

    Where an API key was made, ``show_key`` says whether the line after it shows the key, or only the file that has it.

    Raises SettingsError where the address is taken, where another process serves the database's file, and where a
    database that is a server has no API key.
    """
    if Part.API in parts:
        _makes_key(settings, access_of(settings))
    connections = most_connections(open_files())
    homing = Homing(settings, parts=parts, connections=connections)
    bounds = Bounds(connections=connections)
    with _held(homing.lock, settings), closing(listen(settings.host, settings.port)) as listener:
        url = address(listener)
        async with homing, running(homing.app, listener, bounds=bounds, ending=homing.tracker.feed.dismiss) as serving:
            stop = Stop()
            # Commands look for the API there.
            homing.lock.announce(url if Part.API in parts else None)
            announce(headline(settings, url, parts))
            if homing.local_key is not None and homing.local_key.made:
                announce(key_notice(homing.local_key, url, show_key=show_key))
            return await stop.wait(serving)


def headline(settings: Settings, url: str, parts: Collection[Part] = ALL) -> str:
    """Say in one line what runs where, and what it would surprise somebody not to know."""
    facts = [f"Homing serves {url}"]
    if set(parts) != ALL:
        facts.append(f"only {' and '.join(part.value for part in Part if part in parts)}")
    facts.append(f"database {settings.database_name}")
    facts.append(
        f"callbacks at {settings.public_url}" if settings.public_url else "no callbacks asked for, polling only"
    )
    if settings.sinks and Part.LOOPS in parts:
        facts.append(f"events to {', '.join(spec.name for spec in settings.sinks)}")
    if Part.API in parts:
        keys = len(settings.api_keys) + len(settings.client_keys)
        facts.append(f"{keys} keys" if keys > 1 else "1 key" if keys else f"API key in {_key_file(settings)}")
    if not settings.has_credential and set(parts) != {Part.RECEIVER}:
        facts.append("no provider credential: set HOMING_KLING_API_KEY to submit and poll")
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
            f"process {held.holder.pid} already serves {settings.database_name}{where}: "
            "stop it first, or set another HOMING_DATABASE_URL"
        ) from None
