"""The API client of the data commands.

A command that only reads opens the database read-only, while other processes serve it. Any other command sends its
requests to the server of the database file. If none runs, it takes the serving lock and runs the same app in its own
process. With PostgreSQL the command always runs the app in its own process, next to the servers.
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
# A server that answers with one of these may accept the same request later.
LATER: Final = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
# How long one request waits for a change, in seconds. It must be shorter than the timeout of the request.
LONG_POLL_SECONDS: Final = "20"


class Failed(HomingError):
    """The command failed. The detail is a sentence for the terminal."""


class Lost(Failed):
    """The server cannot be reached, or cannot serve now. Commands that follow changes try again."""


class Exchange(Protocol):
    """A way to send requests to the API: ``HttpExchange`` over a socket, ``AsgiExchange`` within the process."""

    @property
    def origin(self) -> str: ...

    @property
    def has_server(self) -> bool:
        """Return whether a server answers, which also receives callbacks."""

    async def request(
        self, method: str, path: str, *, params: Params | None, body: JsonObject | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]: ...


class ApiClient:
    """A client of the API. It raises errors as Failed and returns documents as JSON objects."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def has_server(self) -> bool:
        """Return whether a server answers, which also receives callbacks."""
        return self._exchange.has_server

    async def get(self, path: str, params: Params | None = None) -> JsonObject:
        return await self._call("GET", path, params=params)

    async def changed(self, task: JsonObject) -> JsonObject:
        """Wait for a while until the version of a task changes, and return the task."""
        return await self.get(
            f"/v1/tasks/{segment(str(task['id']))}", {"wait": LONG_POLL_SECONDS, "version": str(task["version"])}
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
            said = f"{said or path}. Set HOMING_API_KEYS to a key of the server at {self._exchange.origin}"
        raise (Lost if status in LATER else Failed)(
            str(said) if said else f"{path} was answered with {status}. Check that this is a Homing server"
        )


def must_exist(settings: "Settings") -> None:
    """Raise SettingsError if the settings name a SQLite file that does not exist."""
    if settings.database_file is not None and not exists(settings.database_file):
        raise SettingsError(
            f"there is no database here ({settings.database_name} does not exist). "
            "Change to its folder, or set HOMING_DATABASE_URL. `homing serve` creates a new one"
        )


def segment(text: str) -> str:
    """Encode an ID as one segment of a path."""
    return quote(text, safe="")


@asynccontextmanager
async def connect(
    settings: "Settings", *, loops: bool = False, create: bool = True, reads: bool = False
) -> AsyncIterator[ApiClient]:
    """Connect to the API at HOMING_API_URL, to the server of the database file, or to an app within this process.

    ``loops`` runs the loops if the app runs within this process, for commands that wait. ``create`` says whether a
    missing SQLite file may be created. A command that only ``reads`` needs neither the server nor the lock.

    Raises: SettingsError, if the SQLite file is missing and may not be created.
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
    """Return the header with a key: one for all clients, else the first, else a signed token, else ``otherwise``."""
    keys = sorted(settings.api_keys, key=lambda key: not key.sees_all)
    if not keys and settings.client_keys:
        import jwt  # noqa: PLC0415 - few clients have a pair

        pair = settings.client_keys[0]
        claims = {"iss": pair.access, "nbf": now - timedelta(seconds=5), "exp": now + TOKEN_LIFE}
        return {"Authorization": f"Bearer {jwt.encode(claims, pair.secret, algorithm='HS256')}"}
    key = keys[0] if keys else otherwise
    return {"Authorization": f"Bearer {key.key}"} if key is not None else {}


async def _over_http(settings: "Settings", url: str, stack: AsyncExitStack) -> Exchange:
    """Open an HTTP client for a server."""
    import httpx  # noqa: PLC0415 - a command that reads the database needs none

    from homing.commands.http_exchange import TIMEOUT, HttpExchange  # noqa: PLC0415 - as above

    headers = authorization(settings, datetime.now(UTC), _stored_key(settings, url))
    # Only requests to a remote server may use a proxy.
    remote = url == settings.api_url
    http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=remote)
    return HttpExchange(await stack.enter_async_context(http))


async def _in_process(settings: "Settings", lock: ServingLock, stack: AsyncExitStack, *, loops: bool) -> Exchange:
    """Open the database in this process, behind an API that no other process can reach. This process holds ``lock``."""
    from homing.commands.asgi_exchange import AsgiExchange  # noqa: PLC0415 - who speaks to a server loads none
    from homing.serve import Homing  # noqa: PLC0415 - as above

    parts = {Part.API, Part.LOOPS} if loops else {Part.API}
    access, headers = _own_access(settings)
    # Only servers deliver to sinks. A command would end in the middle of a delivery.
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
    """Return the access rules of an API within this process, and the header with a key for it.

    A user who may open the database may use the API. If no key is configured, a random one is used.
    """
    from tracker.api import Access  # noqa: PLC0415 - as above

    key = None if settings.guarded else NamedKey(name=CLIENT, key=secrets.token_urlsafe(32), sees_all=True)
    # Keys are enough here: no socket is open, so no host names are checked.
    access = Access(api_keys=settings.api_keys if key is None else (key,), client_keys=settings.client_keys)
    return access, authorization(settings, datetime.now(UTC), key)


def _stored_key(settings: "Settings", url: str) -> NamedKey | None:
    """Read the key next to the SQLite file. It is sent only to servers on this machine."""
    if settings.guarded or settings.database_file is None or not is_loopback(url_host(url)):
        return None
    stored = read_local_key(settings.database_file)
    return stored.key if stored is not None else None


async def _serving(settings: "Settings", lock: ServingLock, stack: AsyncExitStack) -> str | None:
    """Return the URL of the server of the database file, or take the serving lock and return None."""
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
        f"process {holder} uses {settings.database_name}. Try again when it has ended, "
        "or set HOMING_API_URL if Homing is mounted in an app"
    )
