"""Shared code of the broker sinks: one connection, and batches that the broker confirms as a whole.

The sinks do not use the reconnection of a client library: it could send old events after newer ones. If the state of a
message is unknown, the sink closes the connection. The next batch opens another one. The relay decides when.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from tracker.delivery.sinks.base import Outcome
from tracker.errors import NotSent, SettingsError
from tracker.model.event import PublishedEvent
from tracker.model.sinks import SinkSpec

# The maximum number of events in one batch. Larger batches were not faster with any broker.
WIDTH: Final = 500
# Seconds to open a connection, to confirm a whole batch (the option timeout= sets another limit), and to disconnect.
DIALLING: Final = 5
CONFIRMING: Final = 10
HANGING_UP: Final = 2
LINE: Final = 200
HIDDEN: Final = "***"
UNCONFIRMED: Final = "not confirmed in time"
YES_OR_NO: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# For each scheme, the module of its sink and the extra that installs the client library.
_SCHEMES: Final[Mapping[str, tuple[str, str]]] = {
    "nats": ("jetstream", "nats"),
    "tls": ("jetstream", "nats"),
    "kafka": ("kafka", "kafka"),
    "amqp": ("rabbitmq", "rabbitmq"),
    "amqps": ("rabbitmq", "rabbitmq"),
    "redis": ("redis_streams", "redis"),
    "rediss": ("redis_streams", "redis"),
}
SCHEMES: Final = tuple(_SCHEMES)


def broker_sink(spec: SinkSpec, *, source: str) -> "BrokerSink":
    """Create the sink of a broker's URL. ``source`` is the CloudEvents source of the events.

    The client library is imported here, so only configured brokers need theirs.

    Raises: SettingsError, which shows no value.
    """
    module, extra = _SCHEMES[spec.scheme]
    try:
        wire: Callable[[Endpoint, str], Wire] = import_module(f"tracker.delivery.sinks.{module}").wire
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tracker"):
            raise
        raise SettingsError(
            f"sink `{spec.name}`: the client library for {spec.scheme}: is not installed. "
            f"Run pip install '.[{extra}]' in Homing's folder"
        ) from None
    try:
        endpoint = read(spec.target)
        sink = BrokerSink(spec, wire(endpoint, source), endpoint.secrets)
        endpoint.check()
    except ValueError as error:
        raise SettingsError(f"sink `{spec.name}`: {error}") from None
    return sink


async def check_broker(spec: SinkSpec) -> None:
    """Check that a broker accepts a connection. Raises SettingsError, or NotSent if the broker is unreachable."""
    sink = broker_sink(spec, source="")
    why = await sink.check()
    if why:
        raise NotSent(why)


class Wire(Protocol):
    """One broker's protocol on one connection at a time."""

    @property
    def sound(self) -> bool:
        """Return whether there is a connection without messages of unknown state."""

    async def dial(self) -> None:
        """Open a connection, and create what must exist before events can be published.

        Raises: the errors of the client library.
        """

    async def publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        """Publish all events, then wait until each one is confirmed or the endpoint's ``within`` has passed."""

    async def hang_up(self) -> None:
        """Close the connection, if there is one. Events that are being published fail."""


class BrokerSink:
    """A sink that publishes in batches."""

    width = WIDTH

    def __init__(self, spec: SinkSpec, wire: Wire, secrets: Iterable[str]) -> None:
        self.name = spec.name
        self._takes = spec.filter.takes
        self._wire = wire
        self._secrets = tuple(secrets)
        self._turn = asyncio.Lock()
        self._sending: asyncio.Timeout | None = None
        self._closed = False

    async def open(self) -> None:
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        if self._sending is not None:
            self._sending.reschedule(0)
        async with self._turn:
            await self._hang_up()

    def endpoint(self, event: PublishedEvent) -> str | None:
        return self.name if self._takes(event) else None

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        async with self._turn:
            certain = False
            try:
                # Only ``close`` sets a deadline here. Each step within has its own limit.
                async with asyncio.timeout(None) as self._sending:
                    if not self._wire.sound:
                        await self._dial()
                    outcomes = await self._wire.publish(events)
                certain = self._wire.sound
            except Exception as error:  # noqa: BLE001 - clients raise any error, and the relay needs an outcome
                outcomes = [failed("the sink was closed" if self._closed else said(error))] * len(events)
            finally:
                self._sending = None
                if not certain:
                    await self._hang_up()
        return [self._clean(outcome) for outcome in outcomes]

    async def check(self) -> str:
        """Connect and disconnect. Return the error, or an empty text if there is none."""
        try:
            await self._dial()
        except Exception as error:  # noqa: BLE001 - as in send
            return self._clean(failed(said(error))).error
        finally:
            await self._hang_up()
        return ""

    async def _dial(self) -> None:
        async with asyncio.timeout(DIALLING):
            await self._wire.dial()

    async def _hang_up(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(HANGING_UP):
                await self._wire.hang_up()

    def _clean(self, outcome: Outcome) -> Outcome:
        """Mask secrets in the error text of a broker or its client."""
        if outcome.delivered:
            return outcome
        line = outcome.error
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return Outcome(delivered=False, error=line[:LINE], hopeless=outcome.hopeless)


def failed(error: str) -> Outcome:
    """Return the outcome of an event that was not delivered and will be retried."""
    return Outcome(delivered=False, error=error)


def too_large(size: int, most: int) -> Outcome:
    """Return the outcome of an event that is larger than the broker accepts."""
    return Outcome(
        delivered=False, error=f"the event has {size} bytes, the broker accepts at most {most}", hopeless=True
    )


def said(error: BaseException) -> str:
    """Return an error as one line for the operator."""
    if isinstance(error, TimeoutError) and not str(error):
        return f"no connection within {DIALLING} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def forget(task: asyncio.Future[Any]) -> None:
    """Mark the error of a task or future as retrieved. Add this callback right where the task is created.

    If it is added later, a cancellation may happen before. Then asyncio reports an error that was never retrieved.
    """
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The parsed URL of a broker. A wrong option raises ValueError, which shows no value.

    ``options`` are those of its query. Reading an option adds its name to ``known``.
    """

    scheme: str
    host: str
    port: int | None
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    path: str
    options: Mapping[str, Sequence[str]] = field(repr=False)
    known: set[str] = field(default_factory=set)

    @property
    def secrets(self) -> Sequence[str]:
        """Texts that no log line or error may show. Without a password, the user name may be a token."""
        return [secret for secret in (self.password or self.user,) if secret]

    @property
    def shown(self) -> str:
        """The URL without user name, password and options."""
        return f"{self.scheme}://{self.place()}" + (f"/{self.path}" if self.path else "")

    def place(self, default: int | None = None) -> str:
        """Return the host and the port as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = self.port or default
        return f"{host}:{port}" if port else host

    @property
    def within(self) -> int:
        """The maximum number of seconds for the confirmation of a batch."""
        return self.number("timeout", CONFIRMING)

    def check(self) -> None:
        """Raise ValueError for options that the sink did not read."""
        if not self.options.keys() <= self.known:
            raise ValueError(f"an option in its URL is unknown. Choose from {', '.join(sorted(self.known))}")

    def all(self, name: str) -> Sequence[str]:
        self.known.add(name)
        return self.options.get(name, ())

    def text(self, name: str, default: str = "") -> str:
        return next(iter(self.all(name)), default)

    def number(self, name: str, default: int) -> int:
        written = self.text(name, str(default))
        if not (written.isascii() and written.isdigit() and int(written)):
            raise ValueError(f"its {name}= is not valid. Write a whole number above 0")
        return int(written)

    def flag(self, name: str, *, default: bool) -> bool:
        written = self.text(name, str(default).lower())
        if written not in YES_OR_NO:
            raise ValueError(f"its {name}= is not valid. Write true or false")
        return YES_OR_NO[written]

    def file(self, name: str) -> str | None:
        """Return the path in an option, or None without one. Raises: ValueError, if the file cannot be read."""
        path = self.text(name)
        if not path:
            return None
        try:
            with Path(path).open("rb"):
                return path
        except (OSError, ValueError):
            raise ValueError(f"the file of {name}= cannot be read. Check its path and permissions") from None

    def tls(self) -> ssl.SSLContext:
        """Return a TLS context. It trusts the system's authorities, or those in ``ca``.

        ``cert`` and ``key`` are the client certificate. Raises: ValueError, if a file cannot be used.
        """
        ca, cert, key = (self.text(name) for name in ("ca", "cert", "key"))
        try:
            context = ssl.create_default_context(cafile=ca or None)
            if cert:
                context.load_cert_chain(cert, key or None)
        except (OSError, ssl.SSLError):
            raise ValueError(
                "the files of ca=, cert= and key= cannot be used. Check that they are readable PEM files"
            ) from None
        return context


def read(address: str) -> Endpoint:
    """Read the URL of a broker. Raises: ValueError, which shows no value."""
    options: dict[str, list[str]] = {}
    try:
        parts = urlsplit(address)
        port = parts.port
        for name, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
            options.setdefault(name, []).append(value)
    except ValueError:
        raise ValueError("its URL cannot be read. In the user name and password, write # @ / as %23 %40 %2F") from None
    if not parts.hostname:
        raise ValueError("its URL has no host. Write the host after the //")
    return Endpoint(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        path=unquote(parts.path.removeprefix("/")),
        options=options,
    )
