"""The spec of the sink of the clients' callback URLs: its name and its event filter."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from tracker.model.event import CHANGES, TASK_TYPE, PublishedEvent
from tracker.model.event_filter import EventFilter
from tracker.model.sinks import CALLBACKS, SinkSpec
from tracker.model.task import SETTLED, Task
from tracker.model.untrusted import JsonObject
from tracker.providers.kling_gateway import callback
from tracker.providers.replicate_gateway import prediction, wants_callback

# The callback format of each provider. A provider without a line has no callbacks to imitate.
SHAPES: Final[Mapping[str, Callable[[Task], JsonObject]]] = MappingProxyType(
    {"kling": callback, "replicate": prediction}
)
# For a provider whose clients choose the events: whether a task's client chose this one.
CHOICES: Final[Mapping[str, Callable[[Task], bool]]] = MappingProxyType({"replicate": wants_callback})
_CHANGED: Final = frozenset(TASK_TYPE + name for name in CHANGES)


class CallbackFilter(EventFilter, frozen=True, kw_only=True):
    """Selects the events for the clients' callback URLs: the changes that the provider would call back about."""

    def takes(self, event: PublishedEvent) -> bool:
        task = event.task
        if task is None or task.client_callback_url is None or task.provider not in SHAPES:
            return False
        if (chosen := CHOICES.get(task.provider)) is not None and not chosen(task):
            return False
        # A provider calls back about a status. Other changes of a task are sent once there is a result.
        return event.type not in _CHANGED or task.status in SETTLED


# The sink gets new events only. Clients no longer wait for callbacks about tasks from before this feature.
CALLBACKS_SPEC: Final = SinkSpec(
    name=CALLBACKS,
    scheme=CALLBACKS,
    target="",
    address="each client's callback_url",
    filter=CallbackFilter(),
    signed_per="client",
)
