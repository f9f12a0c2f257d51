"""Documents about the API. They are created at the first request, and sent again only after a change."""

import hashlib
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

from tracker.api.http.base_schemas import Nothing, Shown
from tracker.api.http.endpoint import ApiEndpoint, ApiRequest, Header
from tracker.api.operations import health_endpoint
from tracker.model.event import JSON_TYPE
from tracker.model.untrusted import JsonObject

IF_NONE_MATCH: Final = Header("If-None-Match", 1024)
ETAG_BYTES: Final = 16


def document_endpoint(name: str, summary: str, make: Callable[[], JsonObject], reply: type[Shown]) -> ApiEndpoint:
    """Return the endpoint of one document. It needs no key, so all its answers share the same bytes."""

    @cache
    def written() -> tuple[bytes, str]:
        body = msgspec.json.encode(make())
        return body, f'"{hashlib.sha256(body).hexdigest()[: 2 * ETAG_BYTES]}"'

    async def answer(request: ApiRequest[Nothing, Nothing]) -> Response:
        body, etag = written()
        headers = {"etag": etag, "cache-control": "no-cache"}
        known = request.http.headers.get(IF_NONE_MATCH.name, "")[: IF_NONE_MATCH.max_length]
        # The weak comparison of RFC 9110, 13.1.2.
        tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
        if etag in tags or tags == {"*"}:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(body, media_type=JSON_TYPE, headers=headers)

    return health_endpoint(
        "GET",
        f"/{name}.json",
        answer,
        reply,
        name=f"get_{name}",
        summary=summary,
        bare=(HTTPStatus.NOT_MODIFIED,),
        headers=(IF_NONE_MATCH,),
    )
