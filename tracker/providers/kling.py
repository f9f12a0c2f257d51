"""Kling: the provider of ``/v1/images/omni-image`` and of all its other paths with tasks, official or resold.

Documentation: https://kling.ai/document-api (each page also as ``<address>.md``), quoted by page name beside the rules
here and in the modules that do the reading: ``kling_kinds`` (the products), ``kling_bodies`` (the fields of a create
request), ``kling_order`` (a client's request), ``kling_replies`` (what a reply means),
``kling_submits`` (what an answer to a create proves), ``kling_reports`` (callbacks, and what is said about a task).
``kling_gateway`` writes the same shapes for our own clients.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Final, assert_never
from urllib.parse import quote

from tracker.errors import InvalidRequest
from tracker.model.targets import PUBLIC_ONLY, Allowed
from tracker.model.untrusted import JsonObject
from tracker.providers import kling_replies, kling_reports, kling_submits
from tracker.providers.base import ApiKey, Call, Capabilities, Credential, KeyPair, Kind, Order, Query
from tracker.providers.kling_kinds import KINDS
from tracker.providers.kling_order import read_order, submitted_body

DEADLINE: Final = timedelta(hours=24)

# `GET /tasks` accepts 20 IDs (live: 21 get 400/1201), and a page of a list at most 500 tasks. A reply with 500 tasks is
# some hundred kilobytes long, far below the limit of the transport.
BATCH: Final = 20
PAGE: Final = 500

# "Authentication": the token's claims, with the documented lifetime; there is no `iat`.
TOKEN_LIFETIME: Final = timedelta(seconds=1800)
CLOCK_SKEW: Final = timedelta(seconds=5)


class Kling:
    """The provider as functions. One object serves every account.

    ``allowed_targets`` are the targets of clients' callback URLs that are allowed although they are not public.
    """

    def __init__(self, *, allowed_targets: Allowed = PUBLIC_ONLY) -> None:
        self._allowed = allowed_targets

    name: Final = "kling"
    capabilities: Final = Capabilities(
        signs_callbacks=True,
        batch_size=BATCH,
        lists_tasks=True,
        result_lifetime=kling_reports.RESULT_LIFETIME,
    )
    kinds: Final[Mapping[str, Kind]] = MappingProxyType(
        {
            name: Kind(
                name=name,
                usual=timedelta(seconds=kind.seconds),
                deadline=DEADLINE,
                looks_up=kind.looks_up,
                own_queries=kind.is_legacy,
                needs_api_key=not kind.is_legacy,
            )
            for name, kind in KINDS.items()
        }
    )

    def order(self, kind: str, body: JsonObject, *, model: str = "") -> Order:
        if kind not in KINDS:
            raise InvalidRequest(f"there is no kind {kind!r:.100}. Choose from {', '.join(sorted(KINDS))}")
        return read_order(kind, body, self._allowed, model=model)

    def authorization(self, credential: Credential, now: datetime) -> Mapping[str, str]:
        match credential:
            case None:
                return {}
            case ApiKey():
                return {"authorization": f"Bearer {credential.key}"}
            case KeyPair():
                return {"authorization": f"Bearer {_token(credential, now)}"}
            case _:
                assert_never(credential)

    def submit(self, order: Order, *, external_id: str, callback_url: str | None) -> Call:
        body = submitted_body(order, external_id=external_id, callback_url=callback_url)
        path = f"{_path(order.kind)}/{order.model}" if KINDS[order.kind].dialect == "new" else _path(order.kind)
        return Call(method="POST", path=path, body=_json(body))

    read_submit = staticmethod(kling_submits.read_submit)

    def query(self, wanted: Query) -> Call | None:
        """Return the single query.

        On the older paths it ends with "task_id or external_task_id, choose one". The newer dialects have one query for
        many IDs, "exactly one of the two".
        """
        kind = KINDS[wanted.kind]
        if kind.is_legacy:
            return Call(method="GET", path=f"{_path(wanted.kind)}/{quote(wanted.task_id, safe='')}")
        if "," in wanted.task_id:
            return None
        name = "external_task_ids" if wanted.external else "task_ids"
        return Call(method="GET", path=kind.lists_at, query={name: wanted.task_id})

    read_query = staticmethod(kling_replies.read_query)

    def query_many(self, task_ids: Sequence[str]) -> Call:
        """Return ``GET /tasks``, which also finds tasks of legacy paths (live). Commas separate the IDs."""
        return Call(method="GET", path="/tasks", query={"task_ids": ",".join(i for i in task_ids if "," not in i)})

    read_query_many = staticmethod(partial(kling_replies.read_many, batch=True))

    def list_page(self, kind: str, cursor: str | None) -> Call:
        """Return a page by number of an older path, or a page by cursor of all tasks of a newer dialect."""
        if KINDS[kind].is_legacy:
            return Call(method="GET", path=_path(kind), query={"pageNum": cursor or "1", "pageSize": str(PAGE)})
        body: JsonObject = {"limit": PAGE} | ({} if cursor is None else {"cursor": cursor})
        return Call(method="POST", path=KINDS[kind].lists_at, body=_json(body))

    read_list = staticmethod(kling_replies.read_list)
    read_callback = staticmethod(kling_reports.read_callback)


def _path(kind: str) -> str:
    return f"/v1/{kind}" if KINDS[kind].is_legacy else f"/{kind}"


def _json(body: JsonObject) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _token(pair: KeyPair, now: datetime) -> str:
    """Sign the documented JWT: header ``alg`` and ``typ``, claims ``iss``, ``exp`` and ``nbf``, in whole seconds."""
    reports = {
        "iss": pair.access_key,
        "exp": int((now + TOKEN_LIFETIME).timestamp()),
        "nbf": int((now - CLOCK_SKEW).timestamp()),
    }
    import jwt  # noqa: PLC0415 - few accounts have a key pair, and this import is slow

    return jwt.encode(reports, pair.secret_key, algorithm="HS256")
