"""Which events a sink gets. Pure.

An event must match the conditions of all fields, and for each field one of its values. An alarm has no kind, client or
tag, so it never matches a condition on these.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import translate
from functools import cached_property
from typing import Final

import msgspec

from tracker.model.event import EVENT_TYPES, TASK_TYPE, PublishedEvent

FIELDS: Final = ("type", "provider", "kind", "client", "tag")
# The names that a user may write: each full type, and a task type without its prefix.
_SHORT: Final[Mapping[str, str]] = {name.removeprefix(TASK_TYPE): name for name in EVENT_TYPES}


class EventFilter(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The events that a sink takes. An empty field takes every event.

    ``kinds`` may contain the wildcards ``*`` and ``?``; ``types`` are complete names.
    """

    types: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ()
    clients: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()

    def takes(self, event: PublishedEvent) -> bool:
        """Return whether the sink takes an event."""
        return (
            (not self.types or event.type in self.types)
            and (not self.providers or event.provider in self.providers)
            and (not self.clients or event.client in self.clients)
            and (not self.tags or not self.tags.isdisjoint(event.tags))
            and (not self.kinds or (event.kind is not None and self._kind(event.kind) is not None))
        )

    @cached_property
    def _kind(self) -> Callable[[str], re.Match[str] | None]:
        return re.compile("|".join(translate(kind) for kind in self.kinds)).match


EVERYTHING: Final = EventFilter()


def read_filter(options: Mapping[str, Sequence[str]]) -> EventFilter:
    """Read the conditions among a sink's options. Raises: ValueError, which names the field and what to write."""
    for name in FIELDS:
        if any(not value.strip() for value in options.get(name, ())):
            raise ValueError(f"{name}= is empty. Write a value, or remove it to take all events")
    return EventFilter(
        types=frozenset(name for written in options.get("type", ()) for name in event_types(written)),
        providers=frozenset(options.get("provider", ())),
        kinds=tuple(options.get("kind", ())),
        clients=frozenset(options.get("client", ())),
        tags=frozenset(options.get("tag", ())),
    )


def event_types(written: str) -> Sequence[str]:
    """Return the event types that a name or pattern matches, such as ``succeeded`` or ``homing.alarm.*``.

    Raises: ValueError, if it matches none.
    """
    # ``fnmatch`` would cache tens of thousands of patterns, and clients send these patterns.
    matches = re.compile(translate(written)).match
    found = [name for short, name in _SHORT.items() if matches(name) or matches(short)]
    if not found:
        near = get_close_matches(written, [*_SHORT, *EVENT_TYPES], n=1)
        hint = f"Did you mean {near[0]}?" if near else "Write one such as succeeded, failed or homing.alarm.*"
        raise ValueError(f"type= matches no event type. {hint}")
    return found
