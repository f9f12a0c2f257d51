"""The syntax of HOMING_SINKS, and the kind of sink for each URL scheme.

    https://shop.example/hook#name=shop&type=succeeded&type=failed  stdout:#type=homing.alarm.*  python:app.hooks:event

Homing's options follow the ``#`` as a query. A scheme is one line in ``SINK_TYPES``. An error text never repeats the
setting, which may contain a secret. It shows only option names and values that Homing defines.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tracker.delivery.sinks import broker, function
from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.callback_filter import CALLBACKS_SPEC
from tracker.delivery.sinks.function import Function
from tracker.delivery.sinks.stdout import Lines
from tracker.model.event_filter import FIELDS, read_filter
from tracker.model.sinks import CALLBACKS, SinkSpec
from tracker.model.targets import ALLOWED_SETTING, PUBLIC_ONLY, Allowed, inward
from tracker.service.sink_secrets import SinkSecrets

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The options of every sink, and the options that take one value.
OURS: Final = ("name", "from", *FIELDS)
ONCE: Final = frozenset({"name", "from"})
STARTS: Final = ("now", "beginning")
_PORTS: Final = MappingProxyType({"http": 80, "https": 443})


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkContext:
    """The context that a scheme needs to create a sink, in addition to its spec."""

    source: str
    secrets: SinkSecrets
    clock: Callable[[], datetime]
    allowed: Allowed = PUBLIC_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkType:
    """The kind of sink for a URL scheme.

    ``read`` makes a spec from a URL, or raises ValueError. ``make`` creates the sink, or raises SettingsError.
    ``check`` checks the sink without sending an event, and raises a HomingError if it does not work.
    ``options`` are additional options of this scheme. With ``signs``, each such sink has its own secret.
    """

    read: Callable[[str], SinkSpec]
    make: Callable[[SinkSpec, SinkContext], Sink]
    check: Callable[[SinkSpec, Allowed], Awaitable[None]]
    options: frozenset[str] = frozenset()
    signs: bool = False


def parse_sinks(text: str) -> tuple[SinkSpec, ...]:
    """Read the sinks of HOMING_SINKS. Raises ValueError, which names the wrong sink and the fix."""
    specs: list[SinkSpec] = []
    for number, found in enumerate(re.finditer(r"[^\s,]+", text), start=1):
        entry = found[0]
        try:
            spec = _spec(entry)
        except ValueError as error:
            split = number > 1 and text[found.start() - 1] == "," and ":" not in entry.partition("#")[0]
            hint = ". A comma ends a sink. Within a URL or its options, write a comma as %2C" if split else ""
            raise ValueError(f"sink {number}: {error}{hint}") from None
        if spec.name == CALLBACKS:
            raise ValueError(f"sink {number}: the name `{CALLBACKS}` is reserved. Choose another #name=")
        if spec.name in {other.name for other in specs}:
            raise ValueError(f"sink {number}: another sink has the name `{spec.name}`. Give each sink its own #name=")
        specs.append(spec)
    return tuple(specs)


def create_sinks(specs: Sequence[SinkSpec], *, context: SinkContext) -> list[tuple[SinkSpec, Sink]]:
    """Create the sinks without opening them. The first one is the sink of the clients' callback URLs.

    Raises: SettingsError, if a function does not exist or a client library is not installed.
    """
    from tracker.delivery.sinks.client_callbacks import Callbacks  # noqa: PLC0415 - to read settings needs no HTTP library
    from tracker.transport import Poster  # noqa: PLC0415 - as above

    callbacks = Callbacks(secrets=context.secrets, poster=Poster(context.allowed), clock=context.clock)
    return [(CALLBACKS_SPEC, callbacks), *((spec, SINK_TYPES[spec.scheme].make(spec, context)) for spec in specs)]


def signing_names(specs: Sequence[SinkSpec]) -> frozenset[str]:
    """Return the names of the sinks that sign with a secret."""
    return frozenset({CALLBACKS, *(spec.name for spec in specs if spec.signed_per)})


async def check_sink(spec: SinkSpec, allowed: Allowed) -> None:
    """Check whether a sink works, without sending an event.

    Raises SettingsError or TargetRefused if its URL is not valid, and NotSent if its endpoint is unreachable.
    """
    await SINK_TYPES[spec.scheme].check(spec, allowed)


def unreachable(specs: Sequence[SinkSpec], allowed: Allowed) -> str | None:
    """Return a sentence about the first sink whose URL is not an allowed target, or None if there is none."""
    for spec in specs:
        if SINK_TYPES[spec.scheme].make is _webhook:
            parts = urlsplit(spec.target)
            why = inward(parts.hostname or "", allowed, encrypted=parts.scheme == "https")
            if why is not None:
                return f"the URL of sink `{spec.name}` {why}. To allow its host, add it to {ALLOWED_SETTING}"
    return None


def _spec(entry: str) -> SinkSpec:
    address, _, written = entry.partition("#")
    name, colon, _ = address.partition(":")
    sink_type = SINK_TYPES.get(name.lower()) if colon else None
    if sink_type is None:
        near = get_close_matches(name.lower(), SINK_TYPES, n=1)
        hint = f"Did you mean {near[0]}:?" if near else f"Choose one of {', '.join(SINK_TYPES)}"
        raise ValueError(f"its scheme is unknown. {hint}")
    spec = sink_type.read(address)
    options = _options(written, sink_type)
    chosen = options.get("name", [spec.name])[0]
    if not NAME.fullmatch(chosen):
        raise ValueError("its #name= is not valid. Use letters, digits, dots, hyphens and underscores, at most 64")
    start = options.get("from", ["now"])[0]
    if start not in STARTS:
        raise ValueError("its from= is not valid. Write now or beginning")
    return replace(
        spec,
        name=chosen,
        filter=read_filter(options),
        beginning=start == "beginning",
        options={key: options[key][0] for key in sink_type.options & options.keys()},
        signed_per="sink" if sink_type.signs else None,
    )


def _options(written: str, sink_type: SinkType) -> Mapping[str, list[str]]:
    known = (*OURS, *sorted(sink_type.options))
    try:
        options = parse_qs(written, keep_blank_values=True, strict_parsing=bool(written), max_num_fields=100)
    except ValueError:
        raise ValueError(
            "its options cannot be read. Write them as #name=shop&type=succeeded, and a # within the URL as %23"
        ) from None
    for key in options.keys() - set(known):
        near = get_close_matches(key, known, n=1)
        hint = f"Did you mean {near[0]}=?" if near else f"Choose from {', '.join(known)}"
        raise ValueError(f"an option after the # is unknown. {hint}")
    single = ONCE | sink_type.options
    if any(len(options.get(key, ())) > 1 for key in single):
        raise ValueError(f"an option is set twice. Set each of {', '.join(sorted(single))} at most once")
    return options


def _web(address: str) -> SinkSpec:
    wrong = "it is not a valid URL. Write https://shop.example/hook#name=shop, and # @ / in a password as %23 %40 %2F"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wrong) from None
    if not host or not address.isprintable() or "\\" in address:
        raise ValueError(wrong)
    shown = f"[{host}]" if ":" in host else host
    place = shown if port in {None, _PORTS[parts.scheme]} else f"{shown}:{port}"
    # The path or the query of a webhook URL often contains a secret.
    rest = "/…" if parts.path.strip("/") or parts.query else ""
    return SinkSpec(name=_name(place), scheme=parts.scheme, target=address, address=f"{parts.scheme}://{place}{rest}")


def _python(address: str) -> SinkSpec:
    written = address.partition(":")[2]
    if not function.is_written(written):
        raise ValueError(
            "it does not name a function. Write python:module:callable, such as python:myapp.hooks:on_event"
        )
    return SinkSpec(name=written.replace(":", ".")[:64], scheme="python", target=written, address=f"python:{written}")


def _stdout(address: str) -> SinkSpec:
    if address.partition(":")[2]:
        raise ValueError("stdout: takes no path. Write stdout: alone, and options after a #")
    return SinkSpec(name="stdout", scheme="stdout", target="", address="stdout:")


def _broker(address: str) -> SinkSpec:
    endpoint = broker.read(address)
    name = _name(f"{endpoint.place()}-{endpoint.path}")
    return SinkSpec(name=name, scheme=endpoint.scheme, target=address, address=endpoint.shown)


def _name(place: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", place).strip("-.")[:64]


async def _check_web(spec: SinkSpec, allowed: Allowed) -> None:
    from tracker.transport import dial_target  # noqa: PLC0415 - as in create_sinks

    parts = urlsplit(spec.target)
    port = parts.port or _PORTS[parts.scheme]
    await dial_target(parts.hostname or "", port, allowed, encrypted=parts.scheme == "https")


async def _check_python(spec: SinkSpec, allowed: Allowed) -> None:
    del allowed
    function.load(spec)


async def _check_stdout(spec: SinkSpec, allowed: Allowed) -> None:
    """Do nothing, because there is always a standard output."""
    del spec, allowed


async def _check_broker(spec: SinkSpec, allowed: Allowed) -> None:
    """Connect to the broker. It may be at any address, because the operator chose it."""
    del allowed
    await broker.check_broker(spec)


def _webhook(spec: SinkSpec, context: SinkContext) -> Sink:
    from tracker.delivery.sinks.webhook import Webhook  # noqa: PLC0415 - as in create_sinks
    from tracker.transport import Poster  # noqa: PLC0415 - as in create_sinks

    poster = Poster(context.allowed)
    return Webhook(spec, source=context.source, secrets=context.secrets, poster=poster, clock=context.clock)


def _function(spec: SinkSpec, context: SinkContext) -> Sink:
    return Function(function.load(spec), name=spec.name, source=context.source, takes=spec.filter)


def _lines(spec: SinkSpec, context: SinkContext) -> Sink:
    return Lines(name=spec.name, source=context.source, takes=spec.filter)


def _published(spec: SinkSpec, context: SinkContext) -> Sink:
    return broker.broker_sink(spec, source=context.source)


SINK_TYPES: Final[Mapping[str, SinkType]] = MappingProxyType(
    {
        "https": SinkType(read=_web, make=_webhook, check=_check_web, signs=True),
        "http": SinkType(read=_web, make=_webhook, check=_check_web, signs=True),
        "python": SinkType(read=_python, make=_function, check=_check_python),
        "stdout": SinkType(read=_stdout, make=_lines, check=_check_stdout),
        **dict.fromkeys(broker.SCHEMES, SinkType(read=_broker, make=_published, check=_check_broker)),
    }
)
