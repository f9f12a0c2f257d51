"""A prediction of the sandbox's Replicate, and its JSON.

Documented: the fields of a prediction, its words, and that files are deleted an hour after the end. Seen in clients:
`webhook` and `webhook_events_filter` are repeated. Assumed: also in lists.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from homing.sandbox.outgoing_callback import Delivery
from homing.sandbox.submission import JsonObject

STARTING = "starting"
PROCESSING = "processing"
FINALS = ("succeeded", "failed", "canceled", "aborted")
# What a callback is about, by the status that it reports.
EVENTS = {STARTING: "start", PROCESSING: "start"} | dict.fromkeys(FINALS, "completed")


@dataclass(slots=True, kw_only=True)
class Prediction:
    """The real state of one prediction. Times are in seconds."""

    index: int
    id: str
    model: str
    version: str
    input: JsonObject
    account: str
    base_url: str
    webhook: str | None
    events: tuple[str, ...]
    created_at: float = field(default_factory=time.time)
    started_at: float | None = None
    completed_at: float | None = None
    status: str = STARTING
    output: object = None
    error: str | None = None
    held: bool = False
    queries: int = 0
    callbacks: list[Delivery] = field(default_factory=list)

    @property
    def final(self) -> bool:
        return self.status in FINALS

    def as_json(self) -> JsonObject:
        """Return the prediction as in every answer and callback."""
        address = f"{self.base_url}/v1/predictions/{self.id}"
        took = (self.completed_at or 0.0) - (self.started_at or 0.0)
        shown: JsonObject = {
            "id": self.id,
            "model": self.model,
            "version": self.version,
            "input": self.input,
            "logs": "",
            "output": self.output,
            "data_removed": False,
            "error": self.error,
            "source": "api",
            "status": self.status,
            "created_at": _written(self.created_at),
            "started_at": _written(self.started_at),
            "completed_at": _written(self.completed_at),
            "urls": {"get": address, "cancel": f"{address}/cancel"},
            "metrics": {"predict_time": took} if self.completed_at and self.started_at else {},
        }
        return shown | ({"webhook": self.webhook, "webhook_events_filter": list(self.events)} if self.webhook else {})


def _written(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
