"""Check the arguments of requests: a task kind, IDs, tags, and the tasks that the client may see."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tracker.errors import InvalidRequest
from tracker.model.records import TaskFilter
from tracker.model.task import ClientIdentity
from tracker.model.untrusted import identifier
from tracker.providers.base import Account, Kind

TAGS: Final = 20


def kind_named(account: Account, kind: str) -> Kind:
    """Return a task kind of the account's provider. Raises InvalidRequest with the known kinds."""
    named = account.provider.kinds.get(kind)
    if named is None:
        known = ", ".join(sorted(account.provider.kinds))
        raise InvalidRequest(f"unknown kind {kind!r} of {account.provider.name}. Choose from {known}")
    return named


def bounded(value: str, name: str) -> str:
    """Return an ID from a client. Raises InvalidRequest with the name of its field."""
    checked = identifier(value)
    if checked is None:
        raise InvalidRequest(f"{name}: 1 to 200 printable characters")
    return checked


def distinct_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return a client's tags without repeats. Raises InvalidRequest."""
    if len(tags) > TAGS or any(identifier(tag) is None for tag in tags):
        raise InvalidRequest(f"tags: at most {TAGS}, each of 1 to 200 printable characters")
    return tuple(dict.fromkeys(tags))


def own_tasks(wanted: TaskFilter, client: ClientIdentity) -> TaskFilter:
    """Narrow a filter to the tasks that the client may see. Raises InvalidRequest if it names another client."""
    if client.sees_all:
        return wanted
    if wanted.client not in {None, client.name}:
        raise InvalidRequest("this key sees only its own tasks. Remove client")
    return replace(wanted, client=client.name)
