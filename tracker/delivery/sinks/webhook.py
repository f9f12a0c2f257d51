"""``https://…``: each event as a signed POST of a structured CloudEvent."""

from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec import structs

from tracker.delivery.sinks.base import Outcome
from tracker.delivery.sinks.http_post import WIDTH, WebhookRequest, post_all
from tracker.errors import HomingError
from tracker.model.event import STRUCTURED_TYPE, PublishedEvent, structured
from tracker.model.sinks import SinkSpec
from tracker.service.sink_secrets import SinkSecrets
from tracker.transport import Poster


class Webhook:
    """An operator's webhook. The event ID is the webhook ID. A 410 answer turns the sink off."""

    width = WIDTH

    def __init__(
        self, spec: SinkSpec, *, source: str, secrets: SinkSecrets, poster: Poster, clock: Callable[[], datetime]
    ) -> None:
        self.name = spec.name
        self._url = spec.target
        self._takes = spec.filter.takes
        self._source = source
        self._secrets = secrets
        self._poster = poster
        self._clock = clock

    async def open(self) -> None:
        await self._poster.open()

    async def close(self) -> None:
        await self._poster.close()

    def endpoint(self, event: PublishedEvent) -> str | None:
        return self.name if self._takes(event) else None

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        try:
            keys = await self._secrets.of_sink(self.name)
        except HomingError as error:
            return [Outcome(delivered=False, error=f"its secret cannot be read: {error.detail}")] * len(events)
        requests = [
            WebhookRequest(
                url=self._url,
                webhook_id=event.id,
                content_type=STRUCTURED_TYPE,
                body=structured(event, self._source),
                keys=keys,
            )
            for event in events
        ]
        outcomes = await post_all(self._poster, requests, now=self._clock())
        # The operator can allow a target that is refused, so nothing is hopeless here.
        return [structs.replace(outcome, hopeless=False) if outcome.hopeless else outcome for outcome in outcomes]
