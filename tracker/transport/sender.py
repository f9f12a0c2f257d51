"""The protocol between the tracker and a transport."""

from datetime import datetime, timedelta
from typing import Protocol

from tracker.errors import NotSent
from tracker.providers.base import Account, Call, Reply


class Sender(Protocol):
    """Sends calls to providers. ``Transport`` sends them over HTTP."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        """Send ``call`` and return its whole reply ``within`` the given time, or raise NotSent or ReplyLost."""


class NoTransport:
    """A sender for a process that only reads the database. It sends nothing."""

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        del account, call, now, within
        raise NotSent("this process calls no provider")
