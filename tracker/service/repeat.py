"""Tools for every loop: a pause that ends when the loop stops, and failures that are logged once."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from tracker.errors import HomingError


async def pause(stop: asyncio.Event, duration: timedelta) -> bool:
    """Wait for ``duration``, or until ``stop``. Return whether to stop."""
    try:
        async with asyncio.timeout(duration.total_seconds()):
            await stop.wait()
    except TimeoutError:
        return False
    return True


class Failures:
    """The failures of one repeated action. It logs when the action fails, fails for another reason, or works again.

    ``failing`` and ``working`` are the sentences of the log: "retention cannot work" and "retention works again".
    ``working`` is empty if the end of the action does not show that it works.
    """

    def __init__(self, log: logging.Logger, failing: str, working: str = "") -> None:
        self._log = log
        self._failing = failing
        self._working = working
        self._reason = ""

    @contextmanager
    def survived(self) -> Iterator[None]:
        """Suppress every exception of the body. Log a foreign exception by its type alone."""
        reason = ""
        try:
            yield
        except HomingError as error:
            reason = error.detail
        except Exception as error:  # noqa: BLE001 - a loop survives any single failure
            # The message of a foreign exception may quote anything.
            reason = type(error).__name__
        self.note(reason)

    def note(self, reason: str) -> None:
        """Log a change of the reason. An empty reason means that the action worked."""
        if reason and reason != self._reason:
            self._log.warning("%s: %s", self._failing, reason)
        elif self._reason and not reason and self._working:
            self._log.warning("%s", self._working)
        self._reason = reason
