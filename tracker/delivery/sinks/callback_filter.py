"""The sink of the clients' callback URLs as a spec: its name, and which events it takes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from tracker.model.event import CHANGES, TASK_TYPE, PublishedEvent
from tracker.model.event_filter import EventFilter
from tracker.model.sinks import CALLBACKS, SinkSpec
from tracker.model.task import SETTLED, Task
from tracker.model.untrusted import JsonObject
from tracker.providers.kling_gateway import legacy_callback

# How each provider writes a callback. A provider without a line has no callbacks of its own to imitate.
SHAPES: Final[Mapping[str, Callable[[Task], JsonObject]]] = MappingProxyType({"kling": legacy_callback})
_CHANGED: Final = frozenset(TASK_TYPE + name for name in CHANGES)


class CallbackFilter(EventFilter, frozen=True, kw_only=True):
    """What the clients' callback URLs take: what a provider would call back about."""

    def takes(self, event: PublishedEvent) -> bool:
        task = event.task
        if task is None or task.client_callback_url is None or task.provider not in SHAPES:
            return False
        # A provider calls back about a status. Other changes of a task are sent once there is a result.
        return event.type not in _CHANGED or task.status in SETTLED


# New events only: where tasks were kept before there were callbacks, nobody waits for those any more.
CALLBACKS_SPEC: Final = SinkSpec(
    name=CALLBACKS,
    scheme=CALLBACKS,
    target="",
    address="each client's callback_url",
    filter=CallbackFilter(),
    signed_per="client",
)
