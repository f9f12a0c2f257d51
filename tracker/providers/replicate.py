"""Replicate: predictions of any model, version or deployment.

Documentation: https://replicate.com/docs/reference/http, and its public client library. The rules are beside the code:
``replicate_order`` (a client's request), ``replicate_replies`` (what a reply means), ``replicate_reports`` (callbacks,
and what is said about a prediction).

It takes no external ID and no idempotency key. So a submission with a lost reply is never repeated. Its callback, or an
entry of the account's list with its callback URL, shows the prediction.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from tracker.errors import InvalidRequest
from tracker.model.targets import PUBLIC_ONLY, Allowed
from tracker.model.untrusted import JsonObject
from tracker.providers import replicate_replies, replicate_reports
from tracker.providers.base import (
    ApiKey,
    Call,
    Capabilities,
    Credential,
    Kind,
    ManyOutcome,
    Order,
    Query,
    Reply,
    Unsupported,
)
from tracker.providers.replicate_order import PREDICTIONS, read_order, submitted_body, submitted_path

DEADLINE: Final = timedelta(hours=24)
USUAL: Final = timedelta(seconds=30)


class Replicate:
    """The provider as functions. One object serves every account.

    ``allowed_targets`` are the targets of clients' callback URLs that are allowed although they are not public.
    """

    def __init__(self, *, allowed_targets: Allowed = PUBLIC_ONLY) -> None:
        self._allowed = allowed_targets

    name: Final = "replicate"
    capabilities: Final = Capabilities(
        signs_callbacks=True,
        batch_size=0,
        lists_tasks=True,
        result_lifetime=replicate_reports.RESULT_LIFETIME,
    )
    # The model carries what is open-ended. So there is one kind, and Homing learns run times by model.
    kinds: Final[Mapping[str, Kind]] = MappingProxyType(
        {PREDICTIONS: Kind(name=PREDICTIONS, usual=USUAL, deadline=DEADLINE, looks_up=False, takes_external_id=False)}
    )

    def order(self, kind: str, body: JsonObject, *, model: str = "") -> Order:
        if kind != PREDICTIONS:
            raise InvalidRequest(f"there is no kind {kind!r:.100}. Choose {PREDICTIONS}")
        return read_order(body, self._allowed, model=model)

    def authorization(self, credential: Credential, now: datetime) -> Mapping[str, str]:
        del now
        return {"authorization": f"Bearer {credential.key}"} if isinstance(credential, ApiKey) else {}

    def submit(self, order: Order, *, external_id: str, callback_url: str | None) -> Call:
        del external_id
        body = submitted_body(order, callback_url=callback_url)
        content = json.dumps(body, separators=(",", ":")).encode()
        return Call(method="POST", path=submitted_path(order.model), body=content)

    read_submit = staticmethod(replicate_replies.read_submit)

    def query(self, wanted: Query) -> Call | None:
        if wanted.external:
            return None
        return Call(method="GET", path=f"/v1/predictions/{quote(wanted.task_id, safe='')}")

    read_query = staticmethod(replicate_replies.read_query)

    def query_many(self, task_ids: Sequence[str]) -> Call:
        """Return the list, because there is no query for several IDs. Nothing calls this with a batch size of 0."""
        del task_ids
        return self.list_page(PREDICTIONS, None)

    def read_query_many(self, reply: Reply) -> ManyOutcome:
        del reply
        return Unsupported(why="Replicate has no query for several predictions")

    def list_page(self, kind: str, cursor: str | None) -> Call:
        """Return a page of all predictions of the account, also of those made on the website. The newest come first."""
        del kind
        return Call(method="GET", path="/v1/predictions", query={} if cursor is None else {"cursor": cursor})

    read_list = staticmethod(replicate_replies.read_list)
    read_callback = staticmethod(replicate_reports.read_callback)
