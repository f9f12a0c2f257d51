"""What a request names: an account, a kind of task, and the tasks that its client may see."""

from collections.abc import Mapping
from dataclasses import replace

from tracker.errors import InvalidRequest
from tracker.model.records import TaskFilter
from tracker.model.task import ClientIdentity
from tracker.providers.base import Account, Kind


def account_named(accounts: Mapping[str, Account], provider: str) -> Account:
    """Return the account at a provider. Raises InvalidRequest with the known providers."""
    account = accounts.get(provider)
    if account is None:
        raise InvalidRequest(f"unknown provider {provider!r}; known: {', '.join(sorted(accounts))}")
    return account


def kind_named(account: Account, kind: str) -> Kind:
    """Return a task kind of the account's provider. Raises InvalidRequest with the known kinds."""
    named = account.provider.kinds.get(kind)
    if named is None:
        known = ", ".join(sorted(account.provider.kinds))
        raise InvalidRequest(f"unknown kind {kind!r} of {account.provider.name}; known: {known}")
    return named


def submitted_kind(account: Account, kind: str) -> Kind:
    """Return a task kind that Homing submits. Raises InvalidRequest with those that it does."""
    named = kind_named(account, kind)
    if not named.submits:
        known = ", ".join(sorted(name for name, one in account.provider.kinds.items() if one.submits))
        raise InvalidRequest(f"tasks of kind {named.name} are not submitted here; supported: {known}")
    return named


def own_tasks(wanted: TaskFilter, caller: ClientIdentity) -> TaskFilter:
    """Narrow a filter to the tasks that the client may see. Raises InvalidRequest for those of another client."""
    if caller.sees_all:
        return wanted
    if wanted.client not in {None, caller.name}:
        raise InvalidRequest("client: this key sees only its own tasks")
    return replace(wanted, client=caller.name)
