"""``nats://host:4222/PREFIX`` and ``tls://…``: NATS JetStream, a subject per type of event, each message acknowledged.

The event's ID is the ``Nats-Msg-Id``, so the stream drops duplicates within its window
(https://docs.nats.io/nats-concepts/jetstream/headers). Attributes are headers, as in the CloudEvents binding
(https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md).
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, Error, NoServersError
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.sinks.broker import (
    DIALLING,
    HANGING_UP,
    UNCONFIRMED,
    WIDTH,
    Endpoint,
    failed,
    forget,
    said,
    too_large,
)
from tracker.model.event import TASK_TYPE, PublishedEvent, attributes

PORT: Final = 4222
STREAM: Final = "HOMING"
# The stream's error code for a message above its own limit, which may be lower than the server's limit:
# https://github.com/nats-io/nats-server/blob/main/server/errors.json
TOO_LARGE: Final = 10054
DAY: Final = 86_400
# The bytes around the name and value of a header, and around all headers.
AROUND_HEADER: Final = len(": \r\n")
AROUND_HEADERS: Final = len("NATS/1.0\r\n\r\n")
_Ack = asyncio.Future[PubAck]


def wire(endpoint: Endpoint, source: str) -> "JetStreamWire":
    """Read a URL and its options: stream, create, replicas, days, server, creds, timeout, ca, cert, key."""
    return JetStreamWire(endpoint, source)


class JetStreamWire:
    """Publishes a wave at once, and waits for the stream's acknowledgment of each message."""

    def __init__(self, endpoint: Endpoint, source: str) -> None:
        self._source = source
        self._within = endpoint.within
        self._prefix = f"{endpoint.path.strip('.')}." if endpoint.path else ""
        # Only ``create`` needs a stream with a known name. Without it, any stream that accepts the subjects is right.
        self._create = endpoint.flag("create", default=False)
        self._stream = endpoint.text("stream", STREAM if self._create else "") or None
        self._replicas = endpoint.number("replicas", 1)
        self._days = endpoint.number("days", 7)
        self._options = _options(endpoint)
        self._make = _Encrypted if endpoint.scheme == "tls" else Client
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._waited: list[_Ack] = []
        # The cursors of the events in the last wave that no stream accepted.
        self._without_stream: set[int] = set()
        self._doubt = False
        self._trouble: Exception | None = None

    @property
    def sound(self) -> bool:
        return self._client is not None and self._client.is_connected and not self._doubt

    async def dial(self) -> None:
        await self.hang_up()
        self._trouble = None
        self._client = client = self._make()
        try:
            await client.connect(
                **self._options, error_cb=self._on_error, closed_cb=self._on_close, disconnected_cb=self._on_close
            )
        except NoServersError as error:
            # The client tried all servers. The error of the last one has more information.
            raise self._known_error(error) from None
        self._watch(client)
        self._context = client.jetstream(timeout=DIALLING, publish_async_max_pending=2 * WIDTH)
        self._doubt = False
        if self._create:
            await self._have_stream(self._context)

    async def publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        outcomes = list(await self._publish(events))
        context = self._context
        missed = [place for place, event in enumerate(events) if event.cursor in self._without_stream]
        if not (self._create and missed and context is not None and self.sound):
            return outcomes
        # The stream was deleted while the connection was open.
        try:
            async with asyncio.timeout(DIALLING):
                await self._have_stream(context)
        except (OSError, Error) as error:
            self._doubt = True
            why = failed(f"the stream is gone and cannot be created again: {said(error)}")
            again: Sequence[Outcome] = [why] * len(missed)
        else:
            again = await self._publish([events[place] for place in missed])
        for place, outcome in zip(missed, again, strict=True):
            outcomes[place] = outcome
        return outcomes

    async def _publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        assert self._client is not None
        assert self._context is not None
        self._without_stream = set()
        put: list[_Ack | Outcome] = []
        rest = failed(UNCONFIRMED)
        # Use a separate task, because the client ignores a cancellation while it waits for a server that stopped
        # reading.
        putting = asyncio.create_task(self._put_all(self._client, self._context, events, put))
        putting.add_done_callback(forget)
        try:
            async with asyncio.timeout(self._within):
                await asyncio.wait({putting})
                await putting
                if self._waited:
                    await asyncio.wait(self._waited)
        except TimeoutError:
            self._doubt = True
        except (OSError, Error) as error:
            self._doubt = True
            rest = failed(said(self._known_error(error)))
        finally:
            if not putting.done():
                self._doubt = True
                await self._stop(self._client, putting)
            for ack in self._waited:
                ack.cancel()
            self._waited = []
        outcomes = [
            each if isinstance(each, Outcome) else self._outcome(each, event)
            for each, event in zip(put, events, strict=False)
        ]
        return outcomes + [rest] * (len(events) - len(put))

    async def hang_up(self) -> None:
        client, self._client, self._context = self._client, None, None
        self._fail_waited()
        if client is None:
            return
        # Use a separate task here too. A task that waits for the server ignores a cancellation, so leave it.
        closing = asyncio.create_task(client.close())
        closing.add_done_callback(forget)
        try:
            if not self._doubt:
                await asyncio.wait({closing}, timeout=HANGING_UP / 2)
        finally:
            await self._stop(client, closing)

    async def _stop(self, client: Client, task: asyncio.Task[None]) -> None:
        """End a connection and the client's use of it, even if the client waits for the server."""
        transport: Any = client._transport  # noqa: SLF001 - close() waits for a server that stopped reading
        if transport:
            transport._io_writer.transport.abort()  # noqa: SLF001 - the same
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=HANGING_UP / 2)
        finally:
            # A canceled close() leaves these tasks running.
            for each in _tasks(client):
                each.add_done_callback(forget)
                each.cancel()

    def _watch(self, client: Client) -> None:
        """Fail the waiting messages when the client stops reading.

        The client may end without a call of ``closed_cb``.
        """

        def ended(reading: asyncio.Future[Any]) -> None:
            forget(reading)
            if self._client is client:
                self._fail_waited()

        for each in _tasks(client):
            each.add_done_callback(forget)
        if client._reading_task is not None:  # noqa: SLF001 - see _tasks
            client._reading_task.add_done_callback(ended)  # noqa: SLF001 - the same

    async def _put_all(
        self, client: Client, context: JetStreamContext, events: Sequence[PublishedEvent], put: list[_Ack | Outcome]
    ) -> None:
        for event in events:
            put.append(await self._put(client, context, event))  # noqa: PERF401 - after a cancellation, the earlier entries count

    async def _put(self, client: Client, context: JetStreamContext, event: PublishedEvent) -> _Ack | Outcome:
        headers = {f"ce-{name}": value for name, value in attributes(event, self._source).items()}
        headers["content-type"] = headers.pop("ce-datacontenttype")
        headers[Header.MSG_ID] = event.id
        size = len(event.body) + AROUND_HEADERS
        size += sum(len(name) + len(value.encode()) + AROUND_HEADER for name, value in headers.items())
        # The server would end the connection, and so the whole wave would fail.
        if size > client.max_payload:
            return too_large(size, client.max_payload)
        ack = await context.publish_async(self._prefix + event.type, event.body, stream=self._stream, headers=headers)
        ack.add_done_callback(forget)
        self._waited.append(ack)
        return ack

    def _outcome(self, ack: _Ack, event: PublishedEvent) -> Outcome:
        if ack.cancelled():
            return failed(UNCONFIRMED)
        error = ack.exception()
        if error is None:
            return DELIVERED
        if isinstance(error, NoStreamResponseError):
            self._without_stream.add(event.cursor)
            return failed(f"no stream takes {self._prefix}{event.type}. Create one, or add create=true to the URL")
        if isinstance(error, APIError):
            return Outcome(
                delivered=False, error=error.description or said(error), hopeless=error.err_code == TOO_LARGE
            )
        return failed(said(self._known_error(error)))

    async def _have_stream(self, context: JetStreamContext) -> None:
        assert self._stream is not None
        try:
            await context.stream_info(self._stream)
        except NotFoundError:
            subjects = [f"{self._prefix}{TASK_TYPE.split('.', 1)[0]}.>"]
            await context.add_stream(
                StreamConfig(
                    name=self._stream, subjects=subjects, num_replicas=self._replicas, max_age=self._days * DAY
                )
            )

    async def _on_error(self, error: Exception) -> None:
        self._trouble = error

    def _known_error(self, error: BaseException) -> BaseException:
        """Return the last error that the client reported, or ``error`` if there is none."""
        return self._trouble or error

    async def _on_close(self) -> None:
        self._fail_waited()

    def _fail_waited(self) -> None:
        for ack in self._waited:
            if not ack.done():
                ack.set_exception(ConnectionClosedError())


def _tasks(client: Client) -> list[asyncio.Task[None]]:
    """Return the tasks that a client runs on its own.

    They end with the error of their connection, which is unretrieved.
    """
    own: list[Any] = [client._reading_task, client._ping_interval_task, client._flusher_task]  # noqa: SLF001 - no other way
    subscribed = [each._wait_for_msgs_task for each in client._subs.values()]  # noqa: SLF001 - the same
    return [task for task in (*own, *subscribed) if task is not None]


class _Encrypted(Client):
    """A client that sends no credentials without TLS. The usual client does, if the server does not require TLS."""

    def _connect_command(self) -> bytes:
        transport: Any = self._transport
        if transport._io_writer.get_extra_info("ssl_object") is None:  # noqa: SLF001 - there is no public attribute
            raise ConnectionError("the server does not offer an encrypted connection, so no credentials were sent")
        return super()._connect_command()


def _options(endpoint: Endpoint) -> dict[str, Any]:
    """Return the options for the client's connection. The client does not reconnect by itself."""
    servers = [endpoint.place(PORT), *endpoint.all("server")]
    options: dict[str, Any] = {
        "servers": [f"{endpoint.scheme}://{server}" for server in servers],
        "name": "homing",
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
        "connect_timeout": DIALLING,
        "user_credentials": endpoint.file("creds"),
    }
    # A name without a password is a token: https://docs.nats.io/using-nats/developer/connecting/token
    if endpoint.password is not None:
        options |= {"user": endpoint.user, "password": endpoint.password}
    elif endpoint.user is not None:
        options["token"] = endpoint.user
    if endpoint.scheme == "tls":
        options["tls"] = endpoint.tls()
    return options
