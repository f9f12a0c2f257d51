"""The budget of polls and lookups for a provider, shared by the loops and the clients.

Every poll and lookup takes from one bucket. All clients share a smaller bucket within it, so they never wait for a busy
reconciler and never take more than their share. Each client also has its own bucket.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import Overloaded, TooMany

WINDOW: Final = timedelta(minutes=1)
# The part of a minute's requests that the loops may send at once after a pause.
LOOPS_BURST: Final = 1 / 4
# The share of all clients together. A client that polls many tasks at once may use its whole minute at once.
CLIENTS_SHARE: Final = 1 / 3
CLIENTS_BURST: Final = 1.0
# The largest part of that share for one client, even if its own limit is higher. So other clients always get some.
ONE_CLIENTS_SHARE: Final = 3 / 4
# Orphans always get this part of all requests, and more only while this part of the burst is left for tasks.
ORPHANS_SHARE: Final = 1 / 10
LEFT_FOR_TASKS: Final = 1 / 2
# While lists are read, their pages get at most this part of the requests of the loops. The polls get the other part.
LISTS_SHARE: Final = 1 / 2


class Bucket:
    """Tokens that refill at ``rate`` a minute. It holds ``burst`` minutes of tokens, and at least one token.

    The level may fall below zero. Then the next tokens take longer.
    """

    def __init__(self, now: datetime, rate: Callable[[], float], burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = self._most
        self._at = now

    @property
    def _most(self) -> float:
        return max(self._rate() * self._burst, 1.0)

    def wait(self, now: datetime, count: int = 1) -> timedelta | None:
        """Return how long until ``count`` tokens are available, or None if they are available now.

        A full bucket grants more tokens than it holds. It must recover the difference before it grants another token.
        """
        elapsed = max(now - self._at, timedelta())
        self._left = min(self._most, self._left + elapsed / WINDOW * self._rate())
        self._at = now
        lacking = min(count, self._most) - self._left
        return None if lacking <= 0 else lacking / self._rate() * WINDOW

    def level(self, now: datetime) -> float:
        """Return the fill level, at most 1."""
        self.wait(now)
        return self._left / self._most

    def spend(self, count: int = 1) -> None:
        self._left -= count


class Budget:
    """Allows at most ``share`` of ``per_minute`` requests a minute, and a quarter of them at once.

    All clients together get a third of these requests, and orphans at least a tenth. One client may take this process's
    share of ``client_per_minute``, and at most three quarters of the part for clients. While the loops read lists,
    their pages and their polls get a half each.
    """

    def __init__(
        self,
        per_minute: int,
        now: datetime,
        *,
        share: Callable[[], float] = lambda: 1.0,
        client_per_minute: int | None = None,
    ) -> None:
        self._per_minute = per_minute
        self._client_per_minute = client_per_minute or per_minute
        self._share = share
        self._all = Bucket(now, self._rate, LOOPS_BURST)
        self._clients = Bucket(now, self._rate_of_clients, CLIENTS_BURST)
        self._orphans = Bucket(now, lambda: self._rate() * ORPHANS_SHARE, LOOPS_BURST)
        self._lists = Bucket(now, lambda: self._rate() * LISTS_SHARE, LOOPS_BURST)
        self._beside_lists = Bucket(now, lambda: self._rate() * (1 - LISTS_SHARE), LOOPS_BURST)
        self._by_client: dict[str, Bucket] = {}

    def follow(self, share: Callable[[], float]) -> None:
        """Use ``share`` as this process's part of all requests from now on. See ``Membership``."""
        self._share = share

    def take(self, now: datetime, *, beside_lists: bool = False) -> timedelta | None:
        """Take one request for the loops, or return how long until the next one may be taken.

        ``beside_lists`` leaves the share of lists to them.
        """
        return self._take_from((self._all, self._beside_lists) if beside_lists else (self._all,), now)

    def take_for_list(self, now: datetime) -> timedelta | None:
        """Take one request for a page of a list, or return how long until the next one may be taken."""
        return self._take_from((self._all, self._lists), now)

    @staticmethod
    def _take_from(buckets: Sequence[Bucket], now: datetime) -> timedelta | None:
        waits = [wait for bucket in buckets if (wait := bucket.wait(now)) is not None]
        if waits:
            return max(waits)
        for bucket in buckets:
            bucket.spend()
        return None

    def spend(self, count: int) -> None:
        """Count requests that the loops sent in addition to the taken ones."""
        self._all.spend(count)

    def has(self, now: datetime, *, beside_lists: bool = False) -> bool:
        """Return whether the loops may take a request now."""
        return self._all.wait(now) is None and not (beside_lists and self._beside_lists.wait(now) is not None)

    def has_for_orphan(self, now: datetime) -> bool:
        """Return whether a request about an orphan may be taken now."""
        return self._is_ample(now) or self._orphans.wait(now) is None

    def take_for_orphan(self, now: datetime) -> bool:
        """Take a request about an orphan, from the rest that tasks leave, or else from the share of orphans."""
        if not self.has_for_orphan(now):
            return False
        if not self._is_ample(now):
            self._orphans.spend()
        self._all.spend()
        return True

    def _is_ample(self, now: datetime) -> bool:
        return self._all.level(now) >= LEFT_FOR_TASKS and self._all.wait(now) is None

    def take_for(self, client: str, now: datetime, count: int = 1) -> None:
        """Take requests for a client, all or none. Raises TooMany or Overloaded, which contain the time to wait."""
        if count == 0:
            return
        own = self._by_client.get(client)
        if own is None:
            own = self._by_client[client] = Bucket(now, self._rate_of_client, CLIENTS_BURST)
        if (wait := own.wait(now, count)) is not None:
            raise TooMany(
                f"this key may cause {self._rate_of_client():g} requests to the provider per minute. None was sent. "
                "Retry after the time in Retry-After, or wait for callbacks and events",
                retry_after=wait,
            )
        if (wait := self._clients.wait(now, count)) is not None:
            raise Overloaded(
                "clients together cause too many requests to the provider. None was sent. Try again later",
                retry_after=wait,
            )
        self.spend_for(client, count)

    def spend_for(self, client: str, count: int) -> None:
        """Count requests that were sent for a client, whether or not there was room for them."""
        for bucket in (self._by_client[client], self._clients, self._all):
            bucket.spend(count)

    def _rate(self) -> float:
        return self._per_minute * self._share()

    def _rate_of_clients(self) -> float:
        return self._rate() * CLIENTS_SHARE

    def _rate_of_client(self) -> float:
        return min(self._client_per_minute * self._share(), self._rate_of_clients() * ONE_CLIENTS_SHARE)


class Budgets:
    """One budget for each account, so that the polls at one provider take nothing from those at another."""

    def __init__(
        self, account_ids: Iterable[str], per_minute: int, now: datetime, *, client_per_minute: int | None = None
    ) -> None:
        self._by_account = {one: Budget(per_minute, now, client_per_minute=client_per_minute) for one in account_ids}

    def of(self, account_id: str) -> Budget:
        """Return the budget of an account."""
        return self._by_account[account_id]

    def follow(self, share: Callable[[], float]) -> None:
        """Use ``share`` as this process's part of all requests from now on. See ``Membership``."""
        for budget in self._by_account.values():
            budget.follow(share)

    def has(self, now: datetime, *, beside_lists: bool = False) -> bool:
        """Return whether the loops may take a request at any account now."""
        return any(budget.has(now, beside_lists=beside_lists) for budget in self._by_account.values())

    def has_for_orphan(self, now: datetime) -> bool:
        """Return whether a request about an orphan may be taken at any account now."""
        return any(budget.has_for_orphan(now) for budget in self._by_account.values())
