"""Decides which objects of a provider (voices, elements, sessions) belong to a client."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from tracker.errors import InvalidRequest, NotSent, ReplyLost, TooMany
from tracker.model.provider_objects import Claim, ObjectRef, ObjectType, objects_in
from tracker.model.task import ClientIdentity
from tracker.model.untrusted import JsonObject
from tracker.providers.base import Account, Found, Query
from tracker.rules.schedule import Policy
from tracker.service.budget import Budgets
from tracker.storage.store import Store
from tracker.transport import Sender

# Each costs a query to the database.
MOST_NAMED: Final = 50


class ObjectOwners:
    """The owners of objects. A claim from a callback counts once a query of its task verifies it."""

    def __init__(
        self, *, store: Store, transport: Sender, budgets: Budgets, policy: Policy, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._transport = transport
        self._budgets = budgets
        self._policy = policy
        self._clock = clock

    async def may_use(self, client: ClientIdentity, account: Account, named: ObjectRef) -> bool:
        """Return whether a client may use an object: its own, or one that no other client of Homing has made.

        A claim from a callback may be forged. So another client's claim counts only once its task verifies it.
        """
        claims = await self._claims(account, named)
        if client.sees_all or await self._has(client, account, claims):
            return True
        for claim in claims:
            if claim.client == client.name:
                continue
            # The query takes from the claimant's budget. If that is spent, a forged claim must not stop this client.
            with suppress(TooMany):
                if claim.verified or await self._is_confirmed(claim, account):
                    return False
        return True

    async def check(self, client: ClientIdentity, account: Account, body: JsonObject) -> None:
        """Check the objects that a create request names. Raises InvalidRequest for one of another client."""
        named = [ref for type_ in ObjectType for ref in objects_in(body, type_)]
        if len(named) > MOST_NAMED:
            raise InvalidRequest(f"the body names more than {MOST_NAMED} voices, elements and sessions")
        for ref in named:
            if not await self.may_use(client, account, ref):
                # As the provider says it about an unknown one.
                raise InvalidRequest(f"{ref.type.capitalize()} id not found")

    async def owns(self, client: ClientIdentity, account: Account, named: ObjectRef) -> bool:
        """Return whether a client may change or delete an object."""
        return client.sees_all or await self._has(client, account, await self._claims(account, named))

    async def _claims(self, account: Account, named: ObjectRef) -> Sequence[Claim]:
        return await self._store.claims.claims(account.provider.name, account.name, named)

    async def _has(self, client: ClientIdentity, account: Account, claims: Sequence[Claim]) -> bool:
        own = next((claim for claim in claims if claim.client == client.name), None)
        if own is None:
            return False
        # Retention may have deleted the row of the task that made it. A client that adopts the task later gets nothing.
        task_id = own.provider_task_id
        if task_id is not None and any(one.provider_task_id == task_id and one.at < own.at for one in claims):
            return False
        return own.verified or await self._is_confirmed(own, account)

    async def _is_confirmed(self, claim: Claim, account: Account) -> bool:
        """Query the task of a claim once, and record it if the task made the object. Raises TooMany or Overloaded."""
        task_id, provider = claim.provider_task_id, account.provider
        if task_id is None or claim.kind not in provider.kinds:
            return False
        holder = await self._store.tasks.find_ref(task_id, client=None, provider=provider.name)
        # A row that came after the claim adopted the task, because the claimant's row was deleted.
        if (
            holder is not None
            and holder.provider_task_id == task_id
            and holder.client != claim.client
            and holder.created_at <= claim.at
        ):
            return False
        wanted = Query(kind=claim.kind, task_id=task_id)
        if not await self._made(claim.object, wanted, account, client=claim.client):
            return False
        await self._store.claims.verify(claim)
        return True

    async def _made(self, named: ObjectRef, wanted: Query, account: Account, *, client: str) -> bool:
        """Return whether the provider's answer about a task names the object."""
        call = account.provider.query(wanted)
        if call is None:
            return False
        now = self._clock()
        self._budgets.of(account.id).take_for(client, now)
        try:
            reply = await self._transport.send(account, call, now=now, within=self._policy.query)
        except (NotSent, ReplyLost):
            return False
        outcome = account.provider.read_query(reply, wanted)
        assets = outcome.report.assets if isinstance(outcome, Found) else ()
        return (named.type.value, named.id) in {(asset.kind, asset.provider_asset_id) for asset in assets}
