"""How every data command reaches the tasks: one HTTP client of our own API, wherever that runs.

A command that only reads opens the database read-only, beside whoever serves it. Any other command sends its requests
to the server of the database file. If none runs, it takes the serving lock and runs the same app in its own process.
A database that is a server has room for the command beside whoever serves it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, unquote

from homing.server.local_key import CLIENT, read_local_key
from homing.server.serving_lock import Held, ServingLock, check_names
from tracker.errors import HomingError, SettingsError
from tracker.model.hosts import is_loopback, url_host
from tracker.model.keys import NamedKey
from tracker.model.servers import Part
from tracker.model.untrusted import JsonObject, read_object
from tracker.storage.engine.database_file import exists

if TYPE_CHECKING:
    from tracker.api import Access
    from tracker.settings import Settings

TOKEN_LIFE: Final = timedelta(minutes=30)
LOCK_PAUSE: Final = 0.1
LOCK_ATTEMPTS: Final = 50
# A list is a parameter that is given several times.
Params = Mapping[str, str | Sequence[str]]
# Answers of a server that is there, and may take the same request later.
LATER: Final = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
# How long one request waits for news: less than it may take in all.
PATIENCE: Final = "20"


class Failed(HomingError):
    """What was asked for did not succeed; the sentence is for the terminal."""


class Lost(Failed):
    """The server cannot be reached, or cannot serve now; whoever follows something tries again."""


class Exchange(Protocol):
    """How requests reach the API: ``HttpExchange`` over a socket, ``AsgiExchange`` within the process."""

    @property
    def origin(self) -> str: ...

    async def request(
        self, method: str, path: str, *, params: Params | None, body: JsonObject | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]: ...


class ApiClient:
    """The API, with its errors as Failed and its documents as JSON objects."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def get(self, path: str, params: Params | None = None) -> JsonObject:
        return await self._call("GET", path, params=params)

    async def changed(self, task: JsonObject) -> JsonObject:
        """Wait until a task has another version than it was shown with, or for a while; give it as it then is."""
        return await self.get(
            f"/v1/tasks/{segment(str(task['id']))}", {"wait": PATIENCE, "version": str(task["version"])}
        )

    async def post(
        self, path: str, body: JsonObject | None = None, headers: Mapping[str, str] | None = None
    ) -> JsonObject:
        return await self._call("POST", path, body=body, headers=headers)

    async def patch(self, path: str, body: JsonObject) -> JsonObject:
        return await self._call("PATCH", path, body=body)

    async def delete(self, path: str) -> JsonObject:
        return await self._call("DELETE", path)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: JsonObject | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> JsonObject:
        status, content = await self._exchange.request(method, path, params=params, body=body, headers=headers or {})
        try:
            document = read_object(content)
        except HomingError:
            document = {}
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return document
        # The sentence of a problem document, or the message of the gateway's envelope.
        said = document.get("detail") or document.get("message")
        path = unquote(path.partition("?")[0])
        if status == HTTPStatus.UNAUTHORIZED:
            said = f"{said or path}: set HOMING_API_KEYS to a key of the server at {self._exchange.origin}"
        raise (Lost if status in LATER else Failed)(
            str(said) if said else f"{path} was answered {status}; is this a Homing server?"
        )


def must_exist(settings: "Settings") -> None:
    """Raise SettingsError where the settings name a SQLite file that is not there."""
    if settings.database_file is not None and not exists(settings.database_file):
        raise SettingsError(
            f"there is no database here ({settings.database_name} does not exist). "
            "Change to its folder, or set HOMING_DATABASE_URL. `homing serve` makes a new one"
        )


def segment(text: str) -> str:
    """Write an id as one segment of a path, whatever letters it has."""
    return quote(text, safe="")


@asynccontextmanager
async def connect(
    settings: "Settings", *, loops: bool = False, create: bool = True, reads: bool = False
) -> AsyncIterator[ApiClient]:
    """Reach the API: the one that HOMING_API_URL names, the one that serves our file, or one within this process.

    ``loops`` lets the reconciler run beside an API of our own, for a command that waits. A command that only ``reads``
    needs neither the server nor the lock. Raises SettingsError where there is no SQLite file and none may be created.
    """
    if not create and settings.api_url is None:
        must_exist(settings)
    async with AsyncExitStack() as stack:
        if reads and settings.api_url is None:
            yield ApiClient(await _read_only(settings, stack))
            return
        lock = ServingLock(None if settings.api_url else settings.database_file)
        url = settings.api_url or await _serving(settings, lock, stack)
        if url is None:
            yield ApiClient(await _in_process(settings, lock, stack, loops=loops))
        else:
            yield ApiClient(await _over_http(settings, url, stack))


def authorization(settings: "Settings", now: datetime, otherwise: NamedKey | None = None) -> dict[str, str]:
    """Make the header with a key: the one that sees all, else the first, else a signed token, else ``otherwise``."""
    keys = sorted(settings.api_keys, key=lambda key: not key.sees_all)
    if not keys and settings.client_keys:
        import jwt  # noqa: PLC0415 - few clients have a pair

        pair = settings.client_keys[0]
        claims = {"iss": pair.access, "nbf": now - timedelta(seconds=5), "exp": now + TOKEN_LIFE}
        return {"Authorization": f"Bearer {jwt.encode(claims, pair.secret, algorithm='HS256')}"}
    key = keys[0] if keys else otherwise
    return {"Authorization": f"Bearer {key.key}"} if key is not None else {}


async def _over_http(settings: "Settings", url: str, stack: AsyncExitStack) -> Exchange:
    """Open a client of a server."""
    import httpx  # noqa: PLC0415 - a command that reads the database needs none

    from homing.commands.http_exchange import TIMEOUT, HttpExchange  # noqa: PLC0415 - as above

    headers = authorization(settings, datetime.now(UTC), _stored_key(settings, url))
    # Only a remote address may lie behind a proxy.
    remote = url == settings.api_url
    http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=remote)
    return HttpExchange(await stack.enter_async_context(http))


async def _in_process(settings: "Settings", lock: ServingLock, stack: AsyncExitStack, *, loops: bool) -> Exchange:
    """Open the database in this process, behind an API that no other process can reach. ``lock`` is held."""
    from homing.commands.asgi_exchange import AsgiExchange  # noqa: PLC0415 - who speaks to a server loads none
    from homing.serve import Homing  # noqa: PLC0415 - as above

    parts = {Part.API, Part.LOOPS} if loops else {Part.API}
    access, headers = _own_access(settings)
    # Only servers deliver to sinks: a command would stop in the middle of it.
    homing = Homing(settings, access=access, parts=parts, deliver_events=False)
    homing.lock = lock
    await stack.enter_async_context(homing)
    return AsgiExchange(homing.app, headers)


async def _read_only(settings: "Settings", stack: AsyncExitStack) -> Exchange:
    """Open the database for reading only, behind an API that no other process can reach."""
    from starlette.applications import Starlette  # noqa: PLC0415 - as above

    from homing.commands.asgi_exchange import AsgiExchange  # noqa: PLC0415 - as above
    from tracker.api import AccessGuard, guarded_routes  # noqa: PLC0415 - as above
    from tracker.app import create_tracker  # noqa: PLC0415 - as above
    from tracker.transport import NoTransport  # noqa: PLC0415 - as above

    if settings.database_file is not None:
        check_names(settings.database_file)
    tracker = create_tracker(settings, transport=NoTransport())
    await tracker.store.open_read_only()
    stack.push_async_callback(tracker.store.close)
    await tracker.feed.open()
    stack.push_async_callback(tracker.feed.close)
    access, headers = _own_access(settings)
    return AsgiExchange(Starlette(routes=guarded_routes(tracker, AccessGuard(access))), headers)


def _own_access(settings: "Settings") -> tuple["Access", dict[str, str]]:
    """Return who may call an API of our own, and the header with a key for it.

    Who may open the database may use it. If no key is configured, a random one is used.
    """
    from tracker.api import Access  # noqa: PLC0415 - as above

    key = None if settings.guarded else NamedKey(name=CLIENT, key=secrets.token_urlsafe(32), sees_all=True)
    # Only these keys may call, whatever addresses a server would answer at.
    access = Access(api_keys=settings.api_keys if key is None else (key,), client_keys=settings.client_keys)
    return access, authorization(settings, datetime.now(UTC), key)


def _stored_key(settings: "Settings", url: str) -> NamedKey | None:
    """Read the key beside our SQLite file. It is for servers of this machine, and goes nowhere else."""
    if settings.guarded or settings.database_file is None or not is_loopback(url_host(url)):
        return None
    stored = read_local_key(settings.database_file)
    return stored.key if stored is not None else None


async def _serving(settings: "Settings", lock: ServingLock, stack: AsyncExitStack) -> str | None:
    """Return the address of the server of our file, or take its lock and return None."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            stack.enter_context(lock)
        except Held as held:
            if held.holder.url is not None:
                return held.holder.url
            holder = held.holder.pid
        else:
            return None
        await asyncio.sleep(LOCK_PAUSE)
    raise Failed(
        f"process {holder} works on {settings.database_name}; try again when it has ended, "
        "or set HOMING_API_URL if it is an app that Homing is mounted in"
    )
