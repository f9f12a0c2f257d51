"""Runs the servers that Homing is compared with: the same loop and parser as Homing, without an access log."""

import socket
import sys

import uvicorn
from starlette.types import ASGIApp

BACKLOG = 1024


def serve(app: ASGIApp) -> None:
    """Serve on a free loopback port until SIGTERM. The first line on standard output has the URL."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    sys.stdout.write(f"serving http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", lifespan="off", access_log=False, log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[listener])
