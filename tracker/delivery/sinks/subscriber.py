"""A function of the program that embeds Homing. It gets events like any sink.

    Subscriber("orders", on_success, types="succeeded")

Homing calls it like a ``python:`` sink (see ``function``): with the event as a dict, and again if it raises an error.
After a restart, it continues at its recorded position. The database identifies it by its name, like any sink.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.callback_filter import CALLBACKS_SPEC
from tracker.delivery.sinks.function import AsyncHook, Function, Hook
from tracker.delivery.sinks.urls import NAME
from tracker.errors import SettingsError
from tracker.model.event_filter import read_filter
from tracker.model.sinks import SinkSpec

Values = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A function and the events that it gets. The conditions are those of HOMING_SINKS: one value or several.

    ``beginning``: a new subscriber gets earlier events too. Raises ValueError if the name or a condition is not valid.
    Homing raises SettingsError if another sink has the same name.
    """

    name: str
    hook: Hook | AsyncHook
    _: KW_ONLY
    types: Values = ()
    providers: Values = ()
    kinds: Values = ()
    clients: Values = ()
    tags: Values = ()
    beginning: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                "the name of a subscriber is not valid. Use letters, digits, dots, hyphens and underscores, at most 64"
            )
        # Building the spec here reports a wrong condition at the line that contains it.
        _ = self.spec

    @property
    def spec(self) -> SinkSpec:
        """The description of the subscriber as a sink of the settings."""
        module = getattr(self.hook, "__module__", None) or type(self.hook).__module__
        written = f"{module}:{getattr(self.hook, '__qualname__', type(self.hook).__qualname__)}"
        conditions = {
            "type": _several(self.types),
            "provider": _several(self.providers),
            "kind": _several(self.kinds),
            "client": _several(self.clients),
            "tag": _several(self.tags),
        }
        return SinkSpec(
            name=self.name,
            scheme="python",
            target=written,
            address=f"python:{written}",
            filter=read_filter(conditions),
            beginning=self.beginning,
        )

    def sink(self, source: str) -> tuple[SinkSpec, Sink]:
        """Create the sink, and return it with its spec."""
        spec = self.spec
        return spec, Function(self.hook, name=spec.name, source=source, takes=spec.filter)


def all_sinks(configured: Sequence[SinkSpec], subscribers: Sequence[Subscriber]) -> list[SinkSpec]:
    """Return every sink: the clients' callback URLs, the sinks of the settings, and the subscribers.

    Raises SettingsError if two sinks have the same name.
    """
    specs = [CALLBACKS_SPEC, *configured, *(subscriber.spec for subscriber in subscribers)]
    taken: set[str] = set()
    for spec in specs:
        if spec.name in taken:
            raise SettingsError(f"two sinks are called {spec.name}. Rename the subscriber, or the sink of HOMING_SINKS")
        taken.add(spec.name)
    return specs


def _several(values: Values) -> Sequence[str]:
    return (values,) if isinstance(values, str) else values
