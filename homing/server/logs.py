"""Logs of a process: one line each on the error stream, without what other libraries would tell about addresses."""

import logging
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
# They log whole URLs, or what our own lines already say.
QUIET: Final = ("httpx", "httpcore", "uvicorn.error", "asyncio", "alembic", "nats", "redis")
# It tells of a connection that is lost in many lines; the relay tells it in one.
SILENT: Final = ("pika",)


def set_up_logs(level: str) -> None:
    """Log from ``level`` on; the libraries' own lines only where something is wrong."""
    logging.basicConfig(format=FORMAT, level=level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.access").disabled = True
