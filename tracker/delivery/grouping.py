"""Which of some events go where at a sink."""

from collections import defaultdict
from collections.abc import Sequence

from tracker.delivery.sinks.base import Sink
from tracker.model.event import Found, Told, UnreadableEvent
from tracker.model.sinks import Failure


def by_lane(sink: Sink, events: Sequence[Found]) -> tuple[dict[str, list[Told]], list[Failure]]:
    """Sort events by lanes, without those that are not for the sink.

    What cannot be read, and what the sink cannot say it of, is given up: one such event holds up no other.
    """
    groups: dict[str, list[Told]] = defaultdict(list)
    broken: list[Failure] = []
    for event in events:
        if isinstance(event, UnreadableEvent):
            broken.append(_given_up(event, f"the event cannot be read: {event.why}"))
            continue
        try:
            lane = sink.lane(event)
        except Exception as error:  # noqa: BLE001 - a sink that breaks would break again
            broken.append(_given_up(event, f"it broke with {type(error).__name__} when asked where this goes"))
        else:
            if lane is not None:
                groups[lane].append(event)
    return groups, broken


def _given_up(event: Found, error: str) -> Failure:
    return Failure(cursor=event.cursor, task_id=event.task_id, attempts=1, error=error, next_at=None)
