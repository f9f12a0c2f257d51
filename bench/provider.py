"""A stand-in for the provider. It answers every poll after 50 ms: each task has succeeded.

``python -m bench.provider``. ``GET /polls`` returns how many polls there were.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench import shapes
from bench.deliveries import provider_id, task_id
from bench.serving import serve
from tracker.model.untrusted import JsonObject, JsonValue

ANSWER_SECONDS: Final = 0.05
CREATED_MS: Final = 1_790_000_000_000


class Provider:
    """Counts and answers polls."""

    def __init__(self) -> None:
        self._polls = 0

    async def batch(self, request: Request) -> Response:
        ids = request.query_params["task_ids"].split(",")
        return await self._answer([_report(shapes.new, each) for each in ids])

    async def single(self, request: Request) -> Response:
        return await self._answer(_report(shapes.legacy, request.path_params["id"]))

    async def polls(self, _: Request) -> Response:
        return JSONResponse({"polls": self._polls})

    async def _answer(self, data: JsonValue) -> Response:
        self._polls += 1
        await asyncio.sleep(ANSWER_SECONDS)
        return JSONResponse(shapes.envelope(data))

    def routes(self) -> list[Route]:
        return [
            Route("/polls", self.polls),
            Route("/tasks", self.batch),
            Route("/v1/{product}/{kind}/{id}", self.single),
        ]


def _report(shape: Callable[..., JsonObject], theirs: str) -> JsonObject:
    ours = task_id(int(theirs) - int(provider_id(0)))
    return shape(theirs, external_id=ours, status=shapes.SUCCEED, created_ms=CREATED_MS, updated_ms=CREATED_MS)


if __name__ == "__main__":
    serve(Starlette(routes=Provider().routes()))
