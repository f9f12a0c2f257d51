"""One process: receiver, gateway and API in one app, the reconciler beside it, over one database."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass

from starlette.applications import Starlette

from homing.serving_lock import Held, ServingLock
from homing.web_server import Stop, address, listen, running
from receiver.app import routes as receiver_routes
from receiver.settings import ReceiverSettings
from tracker.api import Access, Limits, check_start
from tracker.api import routes as api_routes
from tracker.app import create_tracker
from tracker.errors import SettingsError
from tracker.reconciler import Reconciler
from tracker.schedule import Policy
from tracker.service import Tracker
from tracker.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Homing:
    """The parts that run together over one database."""

    tracker: Tracker
    reconciler: Reconciler
    app: Starlette


@asynccontextmanager
async def compose(
    settings: Settings, *, access: Access | None = None, policy: Policy | None = None, loops: bool = True
) -> AsyncIterator[Homing]:
    """Build everything over the settings' database and close it again; the caller holds the serving lock.

    ``access`` replaces what the settings say about who may call, ``policy`` the usual delays; ``loops`` runs the
    reconciler meanwhile.
    """
    tracker = create_tracker(settings, policy=policy)
    async with tracker:
        await tracker.take_over()
        callbacks = receiver_routes(tracker, ReceiverSettings.from_settings(settings))
        # The API's routes come last: their final one answers every unknown path.
        api = api_routes(tracker, access or access_of(settings), limits=Limits(gateway_body=settings.body_limit))
        app = Starlette(routes=[*callbacks, *api])
        reconciler = Reconciler(tracker)
        async with _looping(reconciler if loops else None):
            yield Homing(tracker=tracker, reconciler=reconciler, app=app)


def access_of(settings: Settings) -> Access:
    """Give what the settings say about who may call and under which names."""
    return Access(
        api_keys=settings.api_keys,
        client_keys=settings.client_keys,
        host=settings.host,
        public_url=settings.public_url,
        hosts=settings.allowed_hosts,
    )


async def serve(settings: Settings, *, announce: Callable[[str], None]) -> int:
    """Serve until SIGTERM (gives 0) or Ctrl-C (130); ``announce`` gets the line that says what runs where.

    Raises SettingsError where the address is taken, where another process serves the database, and where starting
    without keys would let strangers in.
    """
    check_start(settings.host, settings.public_url, [*settings.api_keys, *settings.client_keys])
    with _lock(settings) as lock, closing(listen(settings.host, settings.port)) as listener:
        url = address(listener)
        async with compose(settings) as homing, running(homing.app, listener) as serving:
            stop = Stop()
            lock.announce(url)
            announce(headline(settings, url))
            return await stop.wait(serving)


def headline(settings: Settings, url: str) -> str:
    """Say in one line what runs where, and what it would surprise somebody not to know."""
    callbacks = f"callbacks at {settings.public_url}" if settings.public_url else "no callbacks asked for, polling only"
    keys = len(settings.api_keys) + len(settings.client_keys)
    callers = f"{keys} keys" if keys > 1 else "1 key" if keys else "no keys, so this machine only"
    return f"Homing serves {url} · database {settings.database_file} · {callbacks} · {callers}"


@contextmanager
def _lock(settings: Settings) -> Iterator[ServingLock]:
    try:
        with ServingLock(settings.database_file) as lock:
            yield lock
    except Held as held:
        where = f" at {held.holder.url}" if held.holder.url else ""
        raise SettingsError(
            f"process {held.holder.pid} already serves {settings.database_file}{where}: "
            "stop it first, or set another HOMING_DATABASE_URL"
        ) from None


@asynccontextmanager
async def _looping(reconciler: Reconciler | None) -> AsyncIterator[None]:
    """Run the reconciler meanwhile; at the end it finishes what it has begun."""
    if reconciler is None:
        yield
        return
    stop = asyncio.Event()
    loop = asyncio.create_task(reconciler.run(stop), name="homing reconciler")
    try:
        yield
    finally:
        stop.set()
        await loop
