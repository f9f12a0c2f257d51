"""The gateway's helper calls: the provider answers them at once, without a task.

They go to the provider with the operator's credential. ``tracker.providers.kling_helpers`` is their table.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from tracker.api.gateway import KLING, PREFIXES, gateway_endpoint
from tracker.api.gateway_schemas import CostsQuery, HelperEnvelope, ListQuery
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.body import read_body, require_json
from tracker.api.http.disconnect import CLIENT_LEFT, while_connected
from tracker.api.http.endpoint import PROVIDER_ERRORS, ApiEndpoint, ApiRequest, BodySchemas
from tracker.api.submitting import IDEMPOTENCY_KEY, idempotency_key
from tracker.errors import Conflict, HomingError, NotFound, OutcomeUnknown
from tracker.model.untrusted import READ_IN_THREAD, read_object
from tracker.providers.helper_calls import HelperCall, HelperRequest
from tracker.providers.kling_bounds import schemas_of
from tracker.providers.kling_helpers import HELPER_BODIES, HELPERS, helper_request
from tracker.service.helper_calls import HelperOrder


async def send_helper(request: ApiRequest[Nothing, Nothing], *, helper: HelperCall) -> Response:
    """Send a helper call with a body."""
    http, resources, limits = request.http, request.resources, request.limits
    require_json(http)
    key = idempotency_key(http) if helper.recorded else None
    raw = await read_body(http, resources, limit=limits.gateway_body, within=limits.gateway_body_time)
    parse = partial(_parsed, helper, raw)
    wanted = await asyncio.to_thread(parse) if len(raw) > READ_IN_THREAD else parse()
    del raw
    # The tracker counts the body until the provider has answered.
    resources.release_bytes()
    return await _answer(request, wanted, key=key)


async def list_presets(request: ApiRequest[ListQuery, Nothing], *, helper: HelperCall) -> Response:
    """Return a page of a list of the provider."""
    query = {"pageNum": str(request.query.pageNum), "pageSize": str(request.query.pageSize)}
    return await _answer(request, helper_request(helper, query=query))


async def get_costs(request: ApiRequest[CostsQuery, Nothing], *, helper: HelperCall) -> Response:
    """Return the account's resource packs. Without a key that sees all clients, the list is empty."""
    given = request.query.model_dump(exclude_none=True)
    return await _answer(request, helper_request(helper, query={name: str(value) for name, value in given.items()}))


def _parsed(helper: HelperCall, raw: bytes) -> HelperRequest:
    return helper_request(helper, body=read_object(raw))


async def _answer(request: ApiRequest[Any, Any], wanted: HelperRequest, *, key: str | None = None) -> Response:
    tracker = request.tracker
    order = HelperOrder(client=request.client, account=tracker.providers[KLING], request=wanted, idempotency_key=key)
    answer = await while_connected(request.http.receive, tracker.helpers.call(order))
    if answer is None:
        # The call continues in the background. A repeat with the same key gets its result.
        return Response(status_code=CLIENT_LEFT)
    # An answer from the record and the provider's own look the same, and the log has this ID.
    body = answer.body | {"request_id": request.request_id}
    return JSONResponse(body, status_code=answer.http_status)


def _function(helper: HelperCall) -> Callable[..., Awaitable[Response]]:
    if helper.method == "POST":
        return send_helper
    return get_costs if helper.scrubbed is not None else list_presets


def _summary(helper: HelperCall) -> str:
    cost = ", recorded before it is sent, and never sent twice" if helper.recorded else ""
    return f"Call `{helper.name}` of the provider at once{cost} (group `{helper.group}`)"


def _endpoints(prefix: str, suffix: str) -> Iterator[ApiEndpoint]:
    for helper in HELPERS:
        shape = HELPER_BODIES.get(helper.name)
        errors: tuple[type[HomingError], ...] = PROVIDER_ERRORS
        if helper.method == "POST":
            errors = (*errors, OutcomeUnknown)
        if helper.recorded:
            errors = (*errors, Conflict)
        if helper.needs is not None:
            errors = (*errors, NotFound)
        yield gateway_endpoint(
            helper.method,
            prefix + helper.path,
            partial(_function(helper), helper=helper),
            HelperEnvelope,
            name=re.sub(r"\W+", "_", f"{helper.method.lower()}{helper.path}{suffix}"),
            summary=_summary(helper),
            documented_body=None if shape is None else BodySchemas(name=shape.__name__, schemas=schemas_of(shape)),
            headers=(IDEMPOTENCY_KEY,) if helper.recorded else (),
            errors=errors,
        )


HELPER_ENDPOINTS: Final = tuple(
    endpoint
    for prefix, suffix in zip(PREFIXES, ("", "_unprefixed"), strict=True)
    for endpoint in _endpoints(prefix, suffix)
)
# By path: the group with which it is switched on and off.
HELPER_PATHS: Final[Mapping[str, str]] = MappingProxyType(
    {prefix + helper.path: helper.group for prefix in PREFIXES for helper in HELPERS}
)
