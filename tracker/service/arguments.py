"""Check the arguments of requests: provider, kind, IDs, tags, metadata, and the tasks that the client may see."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from tracker.errors import InvalidRequest
from tracker.model.records import TaskFilter
from tracker.model.task import ClientIdentity
from tracker.model.untrusted import identifier
from tracker.providers.base import Account, Kind

TAGS: Final = 20
# An entry of the longest key and value fits into an index of PostgreSQL, also if each character takes four bytes.
METADATA_ENTRIES: Final = 50
METADATA_KEY_LENGTH: Final = 64
METADATA_VALUE_LENGTH: Final = 500


def account_named(accounts: Mapping[str, Account], provider: str) -> Account:
    """Return the account at a provider. Raises InvalidRequest with the known providers."""
    account = accounts.get(provider)
    if account is None:
        raise InvalidRequest(f"unknown provider {provider!r:.100}; known: {', '.join(sorted(accounts))}")
    return account


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


def checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of a client's metadata. Raises InvalidRequest."""
    for key, value in metadata.items():
        if not 0 < len(key) <= METADATA_KEY_LENGTH or not key.isprintable():
            raise InvalidRequest(f"metadata: each key has 1 to {METADATA_KEY_LENGTH} printable characters")
        if len(value) > METADATA_VALUE_LENGTH or not value.isprintable():
            raise InvalidRequest(
                f"metadata: each value is a text of at most {METADATA_VALUE_LENGTH} printable characters"
            )
    if len(metadata) > METADATA_ENTRIES:
        raise InvalidRequest(f"metadata: at most {METADATA_ENTRIES} entries")
    return dict(metadata)


def own_tasks(wanted: TaskFilter, client: ClientIdentity) -> TaskFilter:
    """Narrow a filter to the tasks that the client may see. Raises InvalidRequest if it names another client."""
    if client.sees_all:
        return wanted
    if wanted.client not in {None, client.name}:
        raise InvalidRequest("this key sees only its own tasks. Remove client")
    return replace(wanted, client=client.name)
