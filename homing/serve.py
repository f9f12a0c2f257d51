"""One process: receiver, gateway and API in one app, the loops beside it, over one database; or only some of them."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp

from homing.loops import Loop, looping
from homing.serving_lock import Held, ServingLock
from homing.web_server import Stop, address, listen, running
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tracker.api import Access, Limits, check_start, health_routes
from tracker.api import routes as api_routes
from tracker.app import create_tracker
from tracker.clock import SteeredClock
from tracker.errors import SettingsError
from tracker.membership import RHYTHM, Membership, Part, Rhythm
from tracker.reconciler import Reconciler
from tracker.retention import Retention
from tracker.schedule import Policy
from tracker.service import Tracker
from tracker.settings import Settings

ALL: Final = frozenset(Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Homing:
    """The parts that run together over one database."""

    tracker: Tracker
    app: ASGIApp


@asynccontextmanager
async def joined(
    settings: Settings, *, parts: Collection[Part], policy: Policy | None = None, rhythm: Rhythm = RHYTHM
) -> AsyncIterator[tuple[Tracker, Membership]]:
    """Open the settings' database as one of the processes that serve it; that of a file holds the serving lock."""
    clock = SteeredClock()
    tracker = create_tracker(settings, policy=policy, clock=clock)
    async with tracker, Membership(tracker, clock, parts=parts, rhythm=rhythm) as membership:
        yield tracker, membership


@asynccontextmanager
async def compose(
    settings: Settings,
    *,
    access: Access | None = None,
    policy: Policy | None = None,
    parts: Collection[Part] = ALL,
    rhythm: Rhythm = RHYTHM,
) -> AsyncIterator[Homing]:
    """Build ``parts`` over the settings' database and close them again; the caller holds the serving lock.

    ``access`` replaces what the settings say about who may call, ``policy`` the usual delays.
    """
    async with joined(settings, parts=parts, policy=policy, rhythm=rhythm) as (tracker, membership):
        app = _app(tracker, settings, access or access_of(settings), parts)
        # Without the other loops it still plans the first look at what it submits.
        loops = _loops(tracker, membership, settings) if Part.LOOPS in parts else [tracker.learner]
        async with looping(loops):
            yield Homing(tracker=tracker, app=app)


def _app(tracker: Tracker, settings: Settings, access: Access, parts: Collection[Part]) -> ASGIApp:
    if Part.API in parts:
        routes = api_routes(tracker, access, limits=Limits(gateway_body=settings.body_limit))
    else:
        # A receiver alone faces strangers: they learn that it answers, and nothing about the database.
        routes = health_routes(tracker, ready=Part.LOOPS in parts)
    app = Starlette(routes=routes)
    if Part.RECEIVER not in parts:
        return app
    return create_receiver(tracker, ReceiverSettings.from_settings(settings), otherwise=app)


def _loops(tracker: Tracker, membership: Membership, settings: Settings) -> Iterator[Loop]:
    yield Reconciler(tracker, share=membership.share)
    if settings.retention is not None:
        yield Retention(tracker, keep=settings.retention)


def access_of(settings: Settings) -> Access:
    """Give what the settings say about who may call and under which names."""
    return Access(
        api_keys=settings.api_keys,
        client_keys=settings.client_keys,
        host=settings.host,
        public_url=settings.public_url,
        hosts=settings.allowed_hosts,
    )


async def serve(settings: Settings, *, announce: Callable[[str], None], parts: Collection[Part] = ALL) -> int:
    """Serve until SIGTERM (gives 0) or Ctrl-C (130); ``announce`` gets the line that says what runs where.

    Raises SettingsError where the address is taken, where another process serves the database's file, and where
    starting without keys would let strangers in.
    """
    if Part.API in parts:
        check_start(settings.host, settings.public_url, [*settings.api_keys, *settings.client_keys])
    with _lock(settings) as lock, closing(listen(settings.host, settings.port)) as listener:
        url = address(listener)
        async with compose(settings, parts=parts) as homing, running(homing.app, listener) as serving:
            stop = Stop()
            # Commands look for the API there.
            lock.announce(url if Part.API in parts else None)
            announce(headline(settings, url, parts))
            return await stop.wait(serving)


def headline(settings: Settings, url: str, parts: Collection[Part] = ALL) -> str:
    """Say in one line what runs where, and what it would surprise somebody not to know."""
    told = [f"Homing serves {url}"]
    if set(parts) != ALL:
        told.append(f"only {' and '.join(part.value for part in Part if part in parts)}")
    told.append(f"database {settings.database_name}")
    told.append(
        f"callbacks at {settings.public_url}" if settings.public_url else "no callbacks asked for, polling only"
    )
    if Part.API in parts:
        keys = len(settings.api_keys) + len(settings.client_keys)
        told.append(f"{keys} keys" if keys > 1 else "1 key" if keys else "no keys, so this machine only")
    if not settings.has_credential and set(parts) != {Part.RECEIVER}:
        told.append("no credential for the provider, so nothing can be submitted or asked")
    return " · ".join(told)


@contextmanager
def _lock(settings: Settings) -> Iterator[ServingLock]:
    try:
        with ServingLock(settings.database_file) as lock:
            yield lock
    except Held as held:
        where = f" at {held.holder.url}" if held.holder.url else ""
        raise SettingsError(
            f"process {held.holder.pid} already serves {settings.database_name}{where}: "
            "stop it first, or set another HOMING_DATABASE_URL"
        ) from None
