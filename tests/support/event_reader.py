"""A reader of the events with a cursor, as a relay or a feed is one: it asks for ids above the last one it saw."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

PAUSE: Final = 0.01
NEXT: Final = text("SELECT id FROM events WHERE id > :last ORDER BY id LIMIT 50")


class EventReader:
    """Reads in a thread of its own; ``seen`` holds the ids in the order in which they were met."""

    def __init__(self, url: str, pause: float) -> None:
        self.seen: list[int] = []
        self._pause = pause
        self._engine = create_engine(url, isolation_level="AUTOCOMMIT")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the reader and return the remaining events."""
        self._stop.set()
        self._thread.join()
        self._read()
        self._engine.dispose()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                self._read()
            except DBAPIError:
                continue  # the server is down: the same question again

    def _read(self) -> None:
        with self._engine.connect() as connection:
            while found := list(connection.execute(NEXT, {"last": self.seen[-1] if self.seen else 0}).scalars()):
                self.seen.extend(found)


@contextmanager
def reading_events(url: str, *, pause: float = PAUSE) -> Iterator[EventReader]:
    follower = EventReader(url, pause)
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()
