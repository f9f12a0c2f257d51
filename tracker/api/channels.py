"""The channels of events: one entry for each way that an event can go, and how it is written there.

Pure description, for /asyncapi.json: what really speaks is ``tracker.delivery`` and ``tracker.api.events``, which tests
compare with this, message for message.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel

from tracker.api.sink_schemas import EventQuery
from tracker.model.untrusted import JsonObject, JsonValue

SIGNATURE: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How an event is written: whole as one JSON document where ``prefix`` is None, else its attributes as headers.

    A header is the attribute's name behind the prefix, but for ``renamed`` ones; None: it is no header. ``more`` are
    headers that hold no attribute.
    """

    name: str
    prefix: str | None = None
    renamed: Mapping[str, str | None] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    def header(self, attribute: str) -> str | None:
        return self.renamed.get(attribute, f"{self.prefix}{attribute}")


STRUCTURED: Final = Encoding(name="structured")
SIGNED: Final = Encoding(name="signed", more=SIGNATURE)
JETSTREAM: Final = Encoding(
    name="jetstream", prefix="ce-", renamed={"datacontenttype": "content-type"}, more=("Nats-Msg-Id",)
)
KAFKA: Final = Encoding(name="kafka", prefix="ce_", renamed={"datacontenttype": "content-type"})
RABBITMQ: Final = Encoding(name="rabbitmq", prefix="ce-", renamed={"datacontenttype": None})
REDIS: Final = Encoding(name="redis", prefix="")


def _unbound(_: str) -> JsonObject:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One way of events out of here.

    ``address`` may hold ``{type}``, ``typed`` is then where the message says it; None where only the settings know it.
    ``schemes`` are those of the addresses in ``HOMING_SINKS``; none where a channel is always there. ``bound`` gives a
    type's message bindings. ``query`` where it is asked for over the API.
    """

    name: str
    title: str
    description: str
    operation: str
    encoding: Encoding
    server: str | None = None
    schemes: tuple[str, ...] = ()
    address: str | None = None
    typed: str = ""
    binding: Mapping[str, JsonValue] = field(default_factory=dict)
    sending: Mapping[str, JsonValue] = field(default_factory=dict)
    bound: Callable[[str], JsonObject] = _unbound
    query: type[BaseModel] | None = None


HTTP_BINDING: Final = "0.3.0"
POST: Final[Mapping[str, JsonValue]] = {"http": {"method": "POST", "bindingVersion": HTTP_BINDING}}
CHANNELS: Final = (
    Channel(
        name="webhooks",
        title="Webhooks",
        description="The address of the sink. Any 2xx takes the event; 410 asks for no more.",
        operation="postEvents",
        encoding=SIGNED,
        server="receiver",
        schemes=("https", "http"),
        sending=POST,
    ),
    Channel(
        name="stream",
        title="Server-Sent Events",
        description="Each event is a `data:` line, with its type as `event:` and the cursor to come back to as `id:`.",
        operation="streamEvents",
        encoding=STRUCTURED,
        server="homing",
        address="/v1/events",
        query=EventQuery,
    ),
    Channel(
        name="function",
        title="A function in the process",
        description="`python:module:callable` is called with the event as a dict; it has taken it when it returns.",
        operation="callFunction",
        encoding=STRUCTURED,
        schemes=("python",),
    ),
    Channel(
        name="stdout",
        title="The standard output",
        description="One event a line.",
        operation="printEvents",
        encoding=STRUCTURED,
        schemes=("stdout",),
    ),
    Channel(
        name="jetstream",
        title="NATS JetStream",
        description="A subject per type, behind the path of the sink's address and a dot where it has one.",
        operation="publishToJetStream",
        encoding=JETSTREAM,
        server="nats",
        schemes=("nats", "tls"),
        address="{type}",
        typed="$message.header#/ce-type",
    ),
    Channel(
        name="kafka",
        title="Kafka",
        description="The topic is the path of the sink's address, `homing` where it has none.",
        operation="publishToKafka",
        encoding=KAFKA,
        server="kafka",
        schemes=("kafka",),
        address="homing",
        bound=lambda _: {
            "kafka": {"key": {"type": "string", "description": "The subject."}, "bindingVersion": "0.5.0"}
        },
    ),
    Channel(
        name="rabbitmq",
        title="RabbitMQ",
        description="A routing key per type. `exchange=`, `headers=` and `mandatory=` of the sink's address change it.",
        operation="publishToRabbitMq",
        encoding=RABBITMQ,
        server="rabbitmq",
        schemes=("amqp", "amqps"),
        address="{type}",
        typed="$message.header#/ce-type",
        binding={
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": "homing", "type": "topic", "durable": True, "vhost": "/"},
                "bindingVersion": "0.3.0",
            }
        },
        sending={"amqp": {"deliveryMode": 2, "mandatory": True, "timestamp": True, "bindingVersion": "0.3.0"}},
        bound=lambda kind: {"amqp": {"messageType": kind, "bindingVersion": "0.3.0"}},
    ),
    Channel(
        name="redis",
        title="Redis Streams",
        description="The key of the stream, unless `stream=` names another. Headers are an entry's fields, the payload "
        "is its field `data`.",
        operation="addToRedis",
        encoding=REDIS,
        server="redis",
        schemes=("redis", "rediss"),
        address="homing:events",
    ),
)
# Each with a host and port as an example; where it really is the settings say.
SERVERS: Final[Mapping[str, tuple[str, str]]] = {
    "homing": ("http", "127.0.0.1:8000"),
    "receiver": ("https", "shop.example"),
    "caller": ("https", "caller.example"),
    "nats": ("nats", "nats.example:4222"),
    "kafka": ("kafka", "kafka.example:9092"),
    "rabbitmq": ("amqp", "rabbit.example:5672"),
    "redis": ("redis", "redis.example:6379"),
}
