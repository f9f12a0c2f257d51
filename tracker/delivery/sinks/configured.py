"""The sinks that the settings name, as an operator meets them: what each takes, and what proves to it that we sent."""

from collections.abc import Mapping, Sequence

from tracker.delivery.sinks.client_callbacks import Callbacks
from tracker.delivery.sinks.signing import CALLBACKS, SinkSecrets
from tracker.delivery.sinks.spec import SinkSpec
from tracker.delivery.sinks.urls import signing_names
from tracker.errors import InvalidRequest
from tracker.model.clock import utc_now
from tracker.model.event import PublishedEvent
from tracker.model.targets import NOWHERE
from tracker.model.webhook_keys import written_key
from tracker.service.sink_admin import NamedSink
from tracker.transport import Poster


class Named:
    """A sink of ``HOMING_SINKS``; nothing of it is opened or imported."""

    def __init__(self, spec: SinkSpec, secrets: SinkSecrets, *, signs: bool) -> None:
        self._spec = spec
        self._secrets = secrets
        self._signs = signs

    def takes(self, event: PublishedEvent) -> bool:
        return self._spec.filter.takes(event)

    async def secrets(self, client: str | None) -> Sequence[str]:
        if client is not None:
            raise InvalidRequest(f"{self._spec.name} has one secret for everybody: leave the client out")
        return [written_key(key) for key in await self._secrets.of_sink(self._spec.name)] if self._signs else []


class NamedCallbacks:
    """The callers' own addresses."""

    def __init__(self, secrets: SinkSecrets) -> None:
        self._secrets = secrets
        # Only asked what is for it, and never opened.
        self._sink = Callbacks(secrets=secrets, poster=Poster(NOWHERE), clock=utc_now)

    def takes(self, event: PublishedEvent) -> bool:
        return self._sink.endpoint(event) is not None

    async def secrets(self, client: str | None) -> Sequence[str]:
        if client is None:
            raise InvalidRequest(
                "each client that is called back has a secret of its own: say with client, or --client, whose you want"
            )
        return [written_key(key) for key in await self._secrets.of_client(client)]


def named_sinks(specs: Sequence[SinkSpec], secrets: SinkSecrets) -> Mapping[str, NamedSink]:
    """Return every sink that the settings name, that of the callers' callbacks among them."""
    signing = signing_names(specs)
    named: dict[str, NamedSink] = {CALLBACKS: NamedCallbacks(secrets)}
    for spec in specs:
        named[spec.name] = Named(spec, secrets, signs=spec.name in signing)
    return named
