"""The sandbox put together, and ways to serve it.

`Sandbox.app` is an ASGI app whose lifespan starts and stops the sandbox. `make_server` returns a uvicorn server for it,
on a socket that is already listening. `serve_in_thread` runs one in a thread with its own loop, so that it works in
sync and async tests.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn
from starlette.applications import Starlette

from homing.sandbox.callback_factory import CallbackFactory
from homing.sandbox.callback_sender import BackgroundJobs, CallbackSender
from homing.sandbox.control import Control
from homing.sandbox.endpoints import Endpoints, unknown_path
from homing.sandbox.faults import Faults
from homing.sandbox.ledger import Ledger
from homing.sandbox.prediction_webhooks import PredictionWebhooks
from homing.sandbox.predictions import Predictions
from homing.sandbox.replicate import ReplicateEndpoints
from homing.sandbox.replies import Wire
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.steering import Steering
from homing.sandbox.submission import JsonObject
from homing.sandbox.task_runner import TaskRunner

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised here, not bound
_BACKLOG = 2048
_STOP_SECONDS = 10.0
_STEER_SECONDS = 10.0


class Sandbox:
    """A stand-in for Kling, and for Replicate below `/replicate`.

    The lifespan of `app` enters and exits it. If your transport runs no lifespan, enter the sandbox yourself with
    ``async with``. Do not do both.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings = settings or SandboxSettings()
        self.faults = Faults(settings.seed, settings.faults)
        self.ledger = Ledger(settings, started_at=int(time.time() * 1000))
        self.wire = Wire()
        self._jobs = BackgroundJobs()
        factory = CallbackFactory(settings, self.faults)
        self._sender = CallbackSender(settings, factory, self._jobs)
        runner = TaskRunner(settings, self.faults, self.ledger, factory, self._sender, self._jobs)
        self.steering = Steering(self.ledger, runner, factory, self._sender)
        endpoints = Endpoints(settings, self.faults, self.ledger, runner, self.wire)
        self._webhooks = PredictionWebhooks(settings, self.faults, self._jobs)
        self.predictions = Predictions(settings, self._webhooks, self._jobs)
        replicate = ReplicateEndpoints(settings, self.faults, self.predictions, self.wire)
        control = Control(self.ledger, self.faults, self.steering, self.predictions)
        self.app = Starlette(
            routes=[*control.routes(), *replicate.routes(), *endpoints.routes()],
            exception_handlers={404: unknown_path, 405: unknown_path},
            lifespan=self._lifespan,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.end_pauses()
        await self._jobs.aclose()
        await self._sender.aclose()
        await self._webhooks.aclose()

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:  # noqa: ARG002 - a lifespan takes its app
        async with self:
            yield


class SandboxServer(uvicorn.Server):
    """Uvicorn that ends deliberately hanging answers before it waits for open requests."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(
            uvicorn.Config(
                sandbox.app,
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=2,
            )
        )
        self._wire = sandbox.wire
        sandbox.wire.server = self

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._wire.end_pauses()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, or raise `OSError`. Port 0 selects a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only if the protocol is named. Otherwise an answer takes 40 ms longer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def base_url(listening: socket.socket) -> str:
    """Return a URL at which this machine reaches the listener."""
    host, port = listening.getsockname()[:2]
    host = _WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class RunningSandbox:
    """A blocking HTTP client of a running sandbox. It may be used from any thread.

    Its methods are the actions of `Steering`, with the same arguments. Each returns a row of the ledger as JSON. None
    of them waits until a callback is answered, so the event loop that answers the callback may call them.
    """

    def __init__(self, url: str, settings: SandboxSettings, client: httpx.Client) -> None:
        self.base_url = url
        self.settings = settings
        self._client = client

    @property
    def api_key(self) -> str:
        return self.settings.api_keys[0]

    @property
    def headers(self) -> dict[str, str]:
        """The authorization header for the API key."""
        return {"Authorization": f"Bearer {self.api_key}"}

    @property
    def ledger(self) -> JsonObject:
        """The ledger so far. `docs/reference/sandbox.md` describes its shape."""
        return self._answer(self._client.get("/sandbox/ledger"))

    def task(self, any_id: str) -> JsonObject:
        return self._answer(self._client.get(f"/sandbox/tasks/{any_id}"))

    def hold(self, any_id: str) -> JsonObject:
        return self._steer(any_id, action="hold")

    def release(self, any_id: str) -> JsonObject:
        return self._steer(any_id, action="release")

    def process(self, any_id: str, *, notify: bool = True) -> JsonObject:
        return self._steer(any_id, action="process", notify=notify)

    def finish(self, any_id: str, **how: object) -> JsonObject:
        """End a task: `status` (succeed or failed), `message`, `notify`."""
        return self._steer(any_id, action="finish", **how)

    def callback(self, any_id: str, **how: object) -> JsonObject:
        """Send a callback: `status`, `shape`, `seal`, `webhook_id`, `target`, `changes`."""
        return self._steer(any_id, action="callback", **how)

    @property
    def replicate_url(self) -> str:
        return f"{self.base_url}/replicate"

    @property
    def predictions(self) -> list[JsonObject]:
        """The true state of each prediction, oldest first."""
        return list(self.ledger["predictions"])

    def steer_prediction(self, prediction_id: str, action: str, **how: object) -> JsonObject:
        """`process` or `finish` (`status`, `output`, `error`, `notify`) a prediction, or send a `callback`."""
        reply = self._client.post(f"/sandbox/predictions/{prediction_id}", json={"action": action, **how})
        return self._answer(reply)

    def set_faults(self, rates: Mapping[str, float]) -> None:
        self._answer(self._client.post("/sandbox/faults", json=dict(rates)))

    def _steer(self, any_id: str, **body: object) -> JsonObject:
        return self._answer(self._client.post(f"/sandbox/tasks/{any_id}", json=body))

    def _answer(self, reply: httpx.Response) -> JsonObject:
        body: Any = reply.json()
        if reply.is_error:
            raise ValueError(body["error"])
        return dict(body)


@contextlib.contextmanager
def serve_in_thread(
    settings: SandboxSettings | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[RunningSandbox]:
    """Serve a sandbox in its own thread until the block ends. Raises `OSError` if it cannot listen."""
    sandbox = Sandbox(settings)
    with listen(host, port) as listening:
        url = base_url(listening)
        server = SandboxServer(sandbox)
        thread = threading.Thread(target=server.run, args=([listening],), name="kling-sandbox", daemon=True)
        thread.start()
        no_certificates = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # plain HTTP needs no certificates
        try:
            with httpx.Client(base_url=url, timeout=_STEER_SECONDS, trust_env=False, verify=no_certificates) as client:
                yield RunningSandbox(url, sandbox.settings, client)
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
