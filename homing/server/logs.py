"""Logging of a process: one line per record on the error stream, without URLs from other libraries."""

import logging
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
# These libraries log whole URLs, or repeat what Homing logs.
WARNINGS_ONLY: Final = ("httpx", "httpcore", "uvicorn.error", "asyncio", "alembic", "nats", "redis")
# This library reports a lost connection in many lines. The relay reports it in one.
CRITICAL_ONLY: Final = ("pika",)


def set_up_logs(level: str) -> None:
    """Log from ``level`` on. Libraries log only warnings and errors."""
    logging.basicConfig(format=FORMAT, level=level.upper())
    for name in WARNINGS_ONLY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in CRITICAL_ONLY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.access").disabled = True
