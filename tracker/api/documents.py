"""Documents about the API: made when first asked for, serialized once, and sent again only where they have changed."""

import hashlib
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

from tracker.api.http.endpoint import AnyEndpoint, Ask, Endpoint, Header
from tracker.api.http.problems import PROBLEMS
from tracker.api.http.schemas import Nothing, Shown
from tracker.api.operations import HEALTH
from tracker.model.event import JSON_TYPE
from tracker.model.untrusted import JsonObject

IF_NONE_MATCH: Final = Header("If-None-Match", 1024)
ETAG_BYTES: Final = 16


def document_endpoint(name: str, summary: str, make: Callable[[], JsonObject], reply: type[Shown]) -> AnyEndpoint:
    """Return the endpoint of one document. It needs no key, so all its answers share the same bytes."""

    @cache
    def written() -> tuple[bytes, str]:
        body = msgspec.json.encode(make())
        return body, f'"{hashlib.sha256(body).hexdigest()[: 2 * ETAG_BYTES]}"'

    async def answer(ask: Ask[Nothing, Nothing]) -> Response:
        body, etag = written()
        headers = {"etag": etag, "cache-control": "no-cache"}
        if _names(ask.request.headers.get(IF_NONE_MATCH.name, ""), etag):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(body, media_type=JSON_TYPE, headers=headers)

    return Endpoint(
        method="GET",
        path=f"/{name}.json",
        name=f"get_{name}",
        summary=summary,
        group=HEALTH,
        dialect=PROBLEMS,
        answer=answer,
        query=Nothing,
        body=Nothing,
        reply=reply,
        bare=(HTTPStatus.NOT_MODIFIED,),
        headers=(IF_NONE_MATCH,),
        secured=False,
    )


def _names(header: str, etag: str) -> bool:
    """Return whether an ``If-None-Match`` header names the tag; the comparison is the weak one of RFC 9110, 13.1.2."""
    tags = {tag.strip().removeprefix("W/") for tag in header[: IF_NONE_MATCH.longest].split(",")}
    return etag in tags or tags == {"*"}
