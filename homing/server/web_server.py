"""An HTTP server for one app. It uses a given listener, and finishes its requests before it ends."""

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from homing.server.connections import BACKLOG, BoundedConfig, Bounds
from homing.terminal import INTERRUPTED
from tracker.errors import SettingsError

# The gateway answers within 20 s, and compose.yaml gives 30 s to stop. Requests in progress finish in between.
SHUTDOWN_TIMEOUT: Final = timedelta(seconds=25)
# How many unsent bytes the kernel holds for a client. The rest stays in the process, which counts it.
MAX_UNSENT_BYTES: Final = 128 * 1024
# A client that vanished acknowledges nothing. Its streams release their slots after this time.
UNACKNOWLEDGED_TIMEOUT: Final = timedelta(seconds=30)
DEFAULT_BOUNDS: Final = Bounds()
FAILED: Final = 1
# Addresses that a server can listen on, and the addresses at which this machine can connect to it.
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognized here, not bound


class Server(uvicorn.Server):
    """uvicorn's server without its own signal handlers, which would end the process before the database is closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen. With port 0, the system chooses a port. Raises: SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only if the protocol is named. Otherwise an answer takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bound_unread(listener)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror):
            raise SettingsError(
                f"HOMING_HOST={host} is not an address of this machine. Set one that is, such as 127.0.0.1"
            ) from None
        raise SettingsError(
            f"cannot listen on {host} port {port} ({error.strerror}). "
            "Stop the program that uses it, or set another HOMING_PORT or HOMING_HOST"
        ) from None
    return listener


def _bound_unread(listener: socket.socket) -> None:
    """Limit the unread answers that the kernel keeps, if the system can. Connections inherit this from the listener."""
    if (option := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, MAX_UNSENT_BYTES)
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, int(UNACKNOWLEDGED_TIMEOUT.total_seconds() * 1000))


def address(listener: socket.socket) -> str:
    """Return a URL at which this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    host = WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def running(
    app: ASGIApp,
    listener: socket.socket,
    *,
    bounds: Bounds = DEFAULT_BOUNDS,
    ending: Callable[[], None] = lambda: None,
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve on ``listener`` within the block. At the end, finish requests in progress within ``SHUTDOWN_TIMEOUT``.

    At the end, ``ending`` is called first. It ends long polls and streams. The block gets the task of the server, which
    ends early only if the server fails.
    """
    server = Server(BoundedConfig(app, bounds, grace=SHUTDOWN_TIMEOUT))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield serving
    finally:
        ending()
        server.should_exit = True
        await serving


class Stop:
    """Waits for a stop signal of the process: SIGTERM, SIGHUP or Ctrl-C. It catches them once it is created."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._stop, 0)
        loop.add_signal_handler(signal.SIGINT, self._stop, INTERRUPTED)
        # Under nohup, SIGHUP stays ignored.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._stop, 0)

    async def wait(self, serving: asyncio.Task[None]) -> int:
        """Wait for the signal or the end of the server, and return the exit status of the process."""
        serving.add_done_callback(lambda _: self._stop(FAILED))
        return await self._status

    def _stop(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)


@contextmanager
def when_stopped(action: Callable[[], None]) -> Iterator[None]:
    """Run ``action`` when the process gets a stop signal, and then the previous signal handler.

    Only the main thread receives signals. In another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    # Signals without a handler still end the process at once.
    before = {int(number): handler for number, handler in found.items() if callable(handler)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(action)
        before[number](number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
