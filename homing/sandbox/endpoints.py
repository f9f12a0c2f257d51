"""The provider's paths: create, single query and list on the legacy paths, and `/tasks`.

Documented: paths, bounds, codes. Live: an unknown task is 400/1201 on a legacy path and left out of the answer of
`/tasks`; 21 IDs are 400/1201; `/tasks` also answers for tasks of legacy paths, in the new shape. Assumed: `/tasks`
without IDs or with both kinds of IDs is 400/1201, a legacy path finds only tasks of its own kind, and `/tasks` finds no
task by an external ID whose legacy path does not either.
"""

import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from homing.sandbox import listing, refusals, results, shapes, submission
from homing.sandbox.auth import Authenticator
from homing.sandbox.faults import Faults
from homing.sandbox.helpers import Helper, Helpers
from homing.sandbox.ledger import Ledger
from homing.sandbox.products import PRODUCTS
from homing.sandbox.refusals import Refusal
from homing.sandbox.replies import JSON, Lost, Wire, dripping
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.task import Task
from homing.sandbox.task_runner import TaskRunner

Answer = Callable[[Request, str, int], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]

PREFIXES = ("", "/kling")
_MAX_IDS = 20
# Refusals of resellers before a request reaches the provider: status, code and message.
_RESELLER_REFUSALS = (
    (401, "invalid_api_key", "Invalid token"),
    (403, "insufficient_user_quota", "user quota is not enough"),
    (404, "not_found", "Invalid URL (POST /v1/images/omni-image)"),
    (405, "method_not_allowed", "the method is not allowed"),
    (429, "rate_limit_exceeded", "too many requests"),
)
_EVEN = 0.5


class Endpoints:
    """The provider's HTTP endpoints: authentication, the answer, and the faults that change it."""

    def __init__(
        self, settings: SandboxSettings, faults: Faults, ledger: Ledger, runner: TaskRunner, wire: Wire
    ) -> None:
        self._settings = settings
        self._faults = faults
        self._ledger = ledger
        self._runner = runner
        self._wire = wire
        self._helpers = Helpers(ledger)
        self._authenticator = Authenticator(settings.api_keys, settings.access_keys, legacy_only=settings.reseller)

    def routes(self) -> list[Route]:
        routes = [Route("/results/{name}", self._result, methods=["GET"])]
        for prefix in PREFIXES:
            for call in self._helpers.calls():
                answer = self._guarded("helper", partial(self._helper, call=call))
                routes.append(Route(prefix + call.path, answer, methods=[call.method]))
            for kind, product in PRODUCTS.items():
                if product.dialect != "legacy":
                    path = f"{prefix}/{kind}" + ("/{model}" if product.dialect == "new" else "")
                    create = partial(self._create, kind=kind)
                    routes.append(Route(path, self._guarded("create", create, legacy=False), methods=["POST"]))
                    continue
                path = f"{prefix}/v1/{kind}"
                create, listed, single = (partial(one, kind=kind) for one in (self._create, self._list, self._single))
                routes += [
                    Route(path, self._guarded("create", create), methods=["POST"]),
                    Route(path, self._guarded("list", listed), methods=["GET"]),
                    Route(f"{path}/{{id:path}}", self._guarded("single", single), methods=["GET"]),
                ]
            for path, below in (("/tasks", ""), ("/solutions", "solutions/")):
                batch, cursor = partial(self._batch, below=below), partial(self._cursor, below=below)
                routes += [
                    Route(f"{prefix}{path}", self._guarded("batch", batch, legacy=False), methods=["GET"]),
                    Route(f"{prefix}{path}", self._guarded("cursor", cursor, legacy=False), methods=["POST"]),
                ]
        return routes

    def _guarded(self, name: str, answer: Answer, *, legacy: bool = True) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            number = self._ledger.count(name)
            try:
                account = self._authenticator.account(request.headers.get("authorization"), legacy=legacy)
                broken = None if name == "create" else self._broken_query(name, number)
                reply = broken or await answer(request, account, number)
            except Refusal as refusal:
                self._ledger.refused[str(refusal.code)] += 1
                reply = refused(refusal)
            except ClientDisconnect:
                return Response(status_code=400)
            return await self._spoiled(reply, name, number)

        return endpoint

    async def _create(self, request: Request, account: str, number: int, *, kind: str) -> Response:
        submission_body = submission.read(kind, await self._body(request), request.path_params.get("model", ""))
        self._ledger.count_create(submission_body.external_id)
        if self._faults.strike("submit_busy", number):
            raise Refusal(1303, refusals.SLOTS_TAKEN)
        if self._faults.strike("submit_unavailable", number):
            raise Refusal(5001, refusals.UNAVAILABLE)
        if dice := self._faults.strike("submit_foreign", number):
            return _reseller_refusal(dice)
        broken = self._faults.strike("server_error", number, "create")
        if broken and broken.random() < _EVEN:
            return _server_error(broken)
        origin = str(request.base_url).rstrip("/")
        again = self._faults.strike("duplicate_made", number) is not None
        if self._faults.strike("submit_late", number):
            self._runner.create_late(submission_body, account, origin, again=again)
            return Lost(self._wire, 0.0)
        task = self._runner.create(submission_body, account, origin, again=again)
        if self._faults.strike("submit_repeated", number):
            task = self._runner.create(submission_body, account, origin, again=again)
        if broken:
            return _server_error(broken)
        if dice := self._faults.strike("submit_reply_lost", task.index):
            return Lost(self._wire, dice.choice((0.0, self._settings.hang_for)))
        return succeeded(shapes.created(task, reseller=self._settings.reseller))

    async def _single(
        self,
        request: Request,
        account: str,  # noqa: ARG002 - an Answer
        number: int,  # noqa: ARG002
        *,
        kind: str,
    ) -> Response:
        wanted = request.path_params["id"]
        task = self._found(wanted) or self._looked_up(wanted)
        if task is None or task.submission.kind != kind:
            raise Refusal(1201, refusals.TASK_NOT_FOUND.format(id=wanted))
        task.queries += 1
        return succeeded(shapes.legacy_task(task, reseller=self._settings.reseller))

    async def _list(
        self,
        request: Request,
        account: str,  # noqa: ARG002 - an Answer
        number: int,  # noqa: ARG002
        *,
        kind: str,
    ) -> Response:
        tasks = [task for task in self._visible() if task.submission.kind == kind]
        page = listing.numbered_page(tasks, request.query_params)
        return succeeded([shapes.legacy_task(task, reseller=self._settings.reseller) for task in page])

    async def _batch(
        self,
        request: Request,
        account: str,  # noqa: ARG002 - an Answer
        number: int,  # noqa: ARG002
        *,
        below: str,
    ) -> Response:
        given = [name for name in ("task_ids", "external_task_ids") if request.query_params.get(name)]
        if len(given) != 1:
            raise Refusal(1201, "send exactly one of task_ids and external_task_ids")
        ids = [wanted for wanted in request.query_params[given[0]].split(",") if wanted]
        if len(ids) > _MAX_IDS:
            raise Refusal(1201, refusals.TOO_MANY_IDS.format(name=given[0]))
        external = given[0] == "external_task_ids"
        find = self._looked_up if external else self._found
        named = [task for wanted in dict.fromkeys(ids) if (task := find(wanted))]
        found = [task for task in named if task.submission.kind.startswith(below)]
        for task in found:
            task.queries += 1
        return succeeded([shapes.new_task(task, task.state) for task in found])

    async def _cursor(
        self,
        request: Request,
        account: str,  # noqa: ARG002 - an Answer
        number: int,  # noqa: ARG002
        *,
        below: str,
    ) -> Response:
        tasks = [task for task in self._visible() if task.submission.kind.startswith(below)]
        page = listing.cursor_page(tasks, await self._body(request), int(time.time() * 1000))
        return succeeded(
            {
                "result": [shapes.new_task(task, task.state) for task in page.tasks],
                "count": len(page.tasks),
                "next_cursor": page.next_cursor,
                "has_more": bool(page.next_cursor),
            }
        )

    async def _helper(self, request: Request, account: str, number: int, *, call: Helper) -> Response:
        raw = await self._body(request) if call.method == "POST" else b""
        data = self._helpers.answer(call, raw, request.query_params, account)
        if dice := self._faults.strike("helper_reply_lost", number):
            return Lost(self._wire, dice.choice((0.0, self._settings.hang_for)))
        return succeeded(data)

    async def _result(self, request: Request) -> Response:
        self._ledger.count("result")
        name, query = request.path_params["name"], request.query_params
        expires = query.get("x-expires", "")
        valid = results.is_valid(self._runner.result_key, name, expires, query.get("x-signature", ""), int(time.time()))
        task_id, _, file = name.rpartition("-")
        task = self._ledger.by_id(task_id) if valid else None
        if task is None:
            return Response(b"the URL has no valid signature or has expired", 403, media_type="text/plain")
        number, _, end = file.partition(".")
        content = results.content(f"{self._settings.seed}/{task.index}/{number}", end)
        return Response(content, media_type=results.MEDIA_TYPES[end])

    def _found(self, wanted: str) -> Task | None:
        task = self._ledger.by_id(wanted)
        return task if task is not None and self._is_visible(task) else None

    def _looked_up(self, wanted: str) -> Task | None:
        task = None if self._settings.reseller else self._ledger.by_external_id(wanted)
        if task is None or not task.product.looked_up or not self._is_visible(task):
            return None
        if self._faults.strike("lookup_denied", task.index):
            return None
        return task

    def _visible(self) -> list[Task]:
        return [task for task in self._ledger if self._is_visible(task)]

    def _is_visible(self, task: Task) -> bool:
        lag = self._settings.not_found_lag
        return lag == 0 or time.time() - task.created_at / 1000 >= lag

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._settings.max_body:
                raise Refusal(1200, f"the request body is larger than {self._settings.max_body} bytes")
        return bytes(body)

    def _broken_query(self, name: str, number: int) -> Response | None:
        if dice := self._faults.strike("server_error", number, name):
            return _server_error(dice)
        if dice := self._faults.strike("query_error", number, name):
            return _query_error(dice)
        return None

    async def _spoiled(self, reply: Response, name: str, number: int) -> Response:
        if isinstance(reply, Lost):
            return reply
        if self._faults.strike("slow", number, name):
            await self._wire.pause(self._settings.slow_by)
        if self._faults.strike("dripping", number, name):
            return dripping(reply, self._wire, self._settings.drip_pause)
        return reply


def succeeded(data: object) -> Response:
    return Response(shapes.dumps(shapes.envelope(data, str(uuid.uuid4()))), media_type=JSON)


def refused(refusal: Refusal, status: int | None = None) -> Response:
    body = shapes.refusal(refusal.code, refusal.message, str(uuid.uuid4()))
    return Response(shapes.dumps(body), status or refusal.status, media_type=JSON)


async def unknown_path(request: Request, error: Exception) -> Response:  # noqa: ARG001 - a handler of Starlette
    """Answer an unknown path with 404 and 1203, and an unknown method with 404 and 1202, as documented."""
    if isinstance(error, HTTPException) and error.status_code == 405:  # noqa: PLR2004 - method not allowed
        return refused(Refusal(1202, "the requested method is not supported"))
    return refused(Refusal(1203, refusals.NO_SUCH_RESOURCE))


def _server_error(dice: Random) -> Response:
    code = dice.choice((5000, 5002, 502))
    if code == 502:  # noqa: PLR2004 - the status of a proxy
        return Response(b"<html><body><h1>502 Bad Gateway</h1></body></html>", code, media_type="text/html")
    return refused(Refusal(code, "internal error" if code == 5000 else "internal timeout"))  # noqa: PLR2004


def _reseller_refusal(dice: Random) -> Response:
    """Return a refusal in the shape of a gateway: OpenAI's error object, or new-api's."""
    status, code, message = dice.choice(_RESELLER_REFUSALS)
    error = {"message": message, "type": "new_api_error", "param": None, "code": code}
    return Response(shapes.dumps({"error": error}), status, media_type=JSON)


def _query_error(dice: Random) -> Response:
    choice = dice.randrange(4)
    if choice == 0:
        return refused(Refusal(5000, "internal error"))
    if choice == 1:
        return refused(Refusal(1302, "too many requests"))
    if choice == 2:  # noqa: PLR2004 - documented: HTTP 200 with a code is still an error
        return refused(Refusal(5000, "internal error"), status=200)
    return Response(b'{"code":0,"message":"SUCCEED","data":{"task_id":', media_type=JSON)
