"""The bare server: it reads and parses the same body and returns the same answer, without a database.

It shows the limit of the event loop, the parser and the framework. ``python -m bench.bare``.
"""

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.serving import serve


async def callback(request: Request) -> Response:
    json.loads(await request.body())
    return JSONResponse({"status": "recorded"})


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/callbacks/{provider}/{token}", callback, methods=["POST"])]))
