"""An HTTP server for one app: a listener of our own, and an end that finishes what has begun."""

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

# The gateway answers within 20 s and compose.yaml gives 30 s to stop: what has begun is finished in between.
GRACE: Final = timedelta(seconds=25)
# What the kernel holds for a client beyond what is on its way; the rest stays here, where it is counted.
UNSENT_BYTES: Final = 128 * 1024
# A client that vanished acknowledges nothing. Its streams release their places after this time.
UNACKNOWLEDGED: Final = timedelta(seconds=30)
USUAL: Final = Bounds()
FAILED: Final = 1
# Addresses to listen on that are none to connect to.
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised here, not bound


class Server(uvicorn.Server):
    """uvicorn's server without its own signal handlers: they end the process before the database is closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen, or raise SettingsError that says what to do. With port 0 the system chooses a port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is named: 40 ms for each answer on a kept connection.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bound_unread(listener)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror):
            raise SettingsError(f"HOMING_HOST={host} is no address of this machine; 127.0.0.1 always is one") from None
        raise SettingsError(
            f"cannot listen on {host} port {port} ({error.strerror}): "
            "stop what is there, or set another HOMING_PORT or HOMING_HOST"
        ) from None
    return listener


def _bound_unread(listener: socket.socket) -> None:
    """Set, where the system has it, what the kernel keeps of unread answers; connections inherit it from a listener."""
    if (option := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, int(UNACKNOWLEDGED.total_seconds() * 1000))


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
    bounds: Bounds = USUAL,
    ending: Callable[[], None] = lambda: None,
) -> AsyncIterator[asyncio.Task[None]]:
    """Answer on ``listener`` meanwhile; at the end requests that have begun are finished, within ``GRACE``.

    ``ending`` is called first of all at the end, to let those go who wait for something that may be long in
    coming. Gives the task that serves: it ends early only when the server fails.
    """
    server = Server(BoundedConfig(app, bounds, grace=GRACE))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield serving
    finally:
        ending()
        server.should_exit = True
        await serving


class Stop:
    """A stop signal of the process: SIGTERM, SIGHUP or Ctrl-C. It is caught from the creation of this object on."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._asked: asyncio.Future[int] = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._ask, 0)
        loop.add_signal_handler(signal.SIGINT, self._ask, INTERRUPTED)
        # Under nohup it stays ignored.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._ask, 0)

    async def wait(self, serving: asyncio.Task[None]) -> int:
        """Wait for the signal or the end of the server, and return the exit status of the process."""
        serving.add_done_callback(lambda _: self._ask(FAILED))
        return await self._asked

    def _ask(self, status: int) -> None:
        if not self._asked.done():
            self._asked.set_result(status)


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
    # Signals without a handler end the process at once, and that may stay so.
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
