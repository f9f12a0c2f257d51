"""``kafka://host:9092/TOPIC``: a topic of Kafka or a compatible broker. The key is the task, so each task is in order.

Attributes are headers, as in the CloudEvents binding
(https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md). The producer is
idempotent, so its own retries create no duplicates.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.sinks.broker import DIALLING, UNCONFIRMED, WIDTH, Endpoint, failed, said
from tracker.model.event import PublishedEvent, attributes

log: Final = logging.getLogger("homing.kafka")

PORT: Final = 9092
TOPIC: Final = "homing"
# The client's own limit of a message, which is also the default limit of brokers.
LARGEST: Final = 1_000_000
# The producer calls its callbacks within flush(). So flush() waits this many seconds longer than the messages live.
LONGER: Final = 1
TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
ONLY_CRITICAL: Final = 2
# The maximum time before the client tries a lost broker again, in milliseconds.
RECONNECTING: Final = 1_000


def wire(endpoint: Endpoint, source: str) -> "KafkaWire":
    """Read a URL and its options: server, max_bytes, tls, sasl, timeout, ca, cert, key."""
    return KafkaWire(endpoint, source)


class KafkaWire:
    """Passes a wave to the producer, and waits until all in-sync replicas have each message."""

    def __init__(self, endpoint: Endpoint, source: str) -> None:
        self._source = source
        self._within = endpoint.within
        self._topic = endpoint.path or TOPIC
        self._options = _options(endpoint)
        self._producer: Producer | None = None
        # The producer's calls block this thread, one at a time. Each producer has its own, because closing may take
        # long.
        self._thread: ThreadPoolExecutor | None = None
        self._uncertain = False
        self._trouble = ""

    @property
    def sound(self) -> bool:
        return self._producer is not None and not self._uncertain

    async def dial(self) -> None:
        await self.hang_up()
        self._trouble = ""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="homing kafka")
        self._producer = producer = Producer({**self._options, "error_cb": self._on_error, "logger": log})
        await asyncio.get_running_loop().run_in_executor(self._thread, self._check_topic, producer)
        self._uncertain = False

    async def publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        assert self._producer is not None
        producer = self._producer
        outcomes: list[Outcome | None] = [None] * len(events)
        for index, event in enumerate(events):
            outcomes[index] = self._produce(producer, event, index, outcomes)
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(self._thread, producer.flush, self._within + LONGER):
            self._uncertain = True
        rest = failed(self._trouble or UNCONFIRMED)
        return [outcome or rest for outcome in outcomes]

    async def hang_up(self) -> None:
        producer, self._producer = self._producer, None
        thread, self._thread = self._thread, None
        if producer is None or thread is None:
            return
        # A waiting flush() returns at once. close() waits for the producer's threads, so it runs in the thread.
        producer.purge(blocking=False)
        ending = thread.submit(producer.close)
        thread.shutdown(wait=False)
        await asyncio.wrap_future(ending)

    def _check_topic(self, producer: Producer) -> None:
        """Request the topic's metadata. A broker that creates topics automatically then creates it."""
        try:
            producer.list_topics(self._topic, timeout=DIALLING - 1)
        except KafkaException:
            producer.poll(0)
            if self._trouble:
                raise ConnectionError(self._trouble) from None
            raise

    def _produce(
        self, producer: Producer, event: PublishedEvent, index: int, outcomes: list[Outcome | None]
    ) -> Outcome | None:
        """Pass one event to the producer. Its outcome appears at its index.

        Return the outcome at once if the producer does not accept the event.
        """

        def settle(error: KafkaError | None, _: Message) -> None:
            outcomes[index] = DELIVERED if error is None else self._outcome(error)

        headers = {f"ce_{name}": value for name, value in attributes(event, self._source).items()}
        headers["content-type"] = headers.pop("ce_datacontenttype")
        try:
            producer.produce(self._topic, event.body, key=event.subject, headers=[*headers.items()], on_delivery=settle)
        except KafkaException as error:
            return self._outcome(error.args[0])
        except BufferError as error:
            return failed(said(error))
        return None

    def _outcome(self, error: KafkaError) -> Outcome:
        if error.code() in TOO_LARGE:
            return Outcome(delivered=False, error=f"the event is too large: {error.str()}", hopeless=True)
        timed_out = error.code() == KafkaError._MSG_TIMED_OUT  # noqa: SLF001 - the client's name for it
        # A message that timed out may still be in transit. A producer with a fatal error sends nothing more.
        self._uncertain = self._uncertain or timed_out or error.fatal()
        # The timeout is only the last effect. The producer's earlier error is the reason.
        return failed(self._trouble if timed_out and self._trouble else error.str())

    def _on_error(self, error: KafkaError) -> None:
        self._trouble = error.str()
        if error.fatal():
            self._uncertain = True


def _options(endpoint: Endpoint) -> dict[str, Any]:
    """Return the producer's options.

    Source: https://docs.confluent.io/platform/current/clients/librdkafka/html/md_CONFIGURATION.html
    """
    options: dict[str, Any] = {
        "bootstrap.servers": ",".join([endpoint.place(PORT), *endpoint.all("server")]),
        "client.id": "homing",
        "enable.idempotence": True,
        "acks": "all",
        "delivery.timeout.ms": endpoint.within * 1000,
        "message.max.bytes": endpoint.number("max_bytes", LARGEST),
        "queue.buffering.max.messages": 2 * WIDTH,
        "socket.timeout.ms": endpoint.within * 1000,
        "reconnect.backoff.max.ms": RECONNECTING,
        "log_level": ONLY_CRITICAL,
    }
    encrypted = endpoint.flag("tls", default=False)
    if encrypted:
        endpoint.tls()
        named = {"ssl.ca.location": "ca", "ssl.certificate.location": "cert", "ssl.key.location": "key"}
        options |= {key: value for key, name in named.items() if (value := endpoint.text(name))}
    mechanism = endpoint.text("sasl", "PLAIN")
    if endpoint.user is not None:
        options |= {
            "sasl.mechanism": mechanism,
            "sasl.username": endpoint.user,
            "sasl.password": endpoint.password or "",
        }
    protocol = ("SASL_" if endpoint.user is not None else "") + ("SSL" if encrypted else "PLAINTEXT")
    return {**options, "security.protocol": protocol}
