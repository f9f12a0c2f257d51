"""A stand-in for the provider. It answers every poll after 50 ms: each task has succeeded.

``python -m bench.provider TASKS``: the list of the account has so many tasks, the newest first. ``GET /polls`` returns
how many polls there were, pages of the list included.
"""

import asyncio
import sys
import time
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
# The tasks are a minute old, one millisecond apart.
AGE_MS: Final = 60_000


class Provider:
    """Counts and answers polls."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._created_ms = time.time_ns() // 1_000_000 - AGE_MS
        self._polls = 0

    async def batch(self, request: Request) -> Response:
        ids = request.query_params["task_ids"].split(",")
        return await self._answer([self._report(shapes.new, each) for each in ids])

    async def single(self, request: Request) -> Response:
        return await self._answer(self._report(shapes.legacy, request.path_params["id"]))

    async def listed(self, request: Request) -> Response:
        page, size = int(request.query_params["pageNum"]), int(request.query_params["pageSize"])
        numbers = range(self._tasks - 1, -1, -1)[(page - 1) * size : page * size]
        return await self._answer([self._report(shapes.legacy, provider_id(number)) for number in numbers])

    async def listed_together(self, request: Request) -> Response:
        body = await request.json()
        start, size = int(body.get("cursor", "0")), int(body["limit"])
        numbers = range(self._tasks - 1, -1, -1)[start : start + size]
        found: list[JsonValue] = [self._report(shapes.new, provider_id(number)) for number in numbers]
        following = str(start + size) if start + size < self._tasks else ""
        return await self._answer({"result": found, "next_cursor": following, "has_more": bool(following)})

    async def polls(self, _: Request) -> Response:
        return JSONResponse({"polls": self._polls})

    async def _answer(self, data: JsonValue) -> Response:
        self._polls += 1
        await asyncio.sleep(ANSWER_SECONDS)
        return JSONResponse(shapes.envelope(data))

    def _report(self, shape: Callable[..., JsonObject], theirs: str) -> JsonObject:
        number = int(theirs) - int(provider_id(0))
        at = self._created_ms + number
        return shape(theirs, external_id=task_id(number), status=shapes.SUCCEED, created_ms=at, updated_ms=at)

    def routes(self) -> list[Route]:
        return [
            Route("/polls", self.polls),
            Route("/tasks", self.batch),
            Route("/tasks", self.listed_together, methods=["POST"]),
            Route("/v1/{product}/{kind}", self.listed),
            Route("/v1/{product}/{kind}/{id}", self.single),
        ]


if __name__ == "__main__":
    serve(Starlette(routes=Provider(int(sys.argv[1])).routes()))
