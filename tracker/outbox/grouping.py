"""Which of some events go where at a sink."""

from collections import defaultdict
from collections.abc import Sequence

from tracker.contract import Told
from tracker.outbox.sink import Sink
from tracker.views import Failure


def by_lane(sink: Sink, events: Sequence[Told]) -> tuple[dict[str, list[Told]], list[Failure]]:
    """Sort events by lanes, without those that are not for the sink; where it cannot tell, none ever will be."""
    groups: dict[str, list[Told]] = defaultdict(list)
    broken: list[Failure] = []
    for told in events:
        try:
            lane = sink.lane(told)
        except Exception as error:  # noqa: BLE001 - one event that a sink cannot read holds up no other
            said = f"it broke with {type(error).__name__} when asked where this goes"
            task_id = None if told.task is None else told.task.id
            broken.append(Failure(cursor=told.cursor, task_id=task_id, attempts=1, error=said, next_at=None))
        else:
            if lane is not None:
                groups[lane].append(told)
    return groups, broken
