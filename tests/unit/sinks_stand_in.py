"""An operator's verbs over sinks for the API's own tests: one sink, what it is owed, and what was done to it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tracker.errors import Conflict, NotFound
from tracker.model.sinks import Delivery, ReplayFilter, SinkState

THEN = datetime(2026, 11, 23, 11, 59, tzinfo=UTC)
SHOP = SinkState(
    name="shop",
    address="https://shop.example/hook",
    on=True,
    cursor=7,
    behind=3,
    waiting=2,
    dead=1,
    delivered=4,
    oldest_at=THEN,
    failures=2,
    last_error="answered 500",
    last_error_at=THEN,
    delivered_at=None,
    retry_at=THEN,
    owner="somebody",
    lease_until=THEN,
)
OWED = Delivery(
    sink="shop",
    cursor=5,
    event_id="hm1-2",
    type="homing.task.succeeded",
    task_id="hm1",
    attempts=3,
    error="answered 500",
    first_at=THEN,
    last_at=THEN,
    next_at=THEN,
)


@dataclass
class SinksStandIn:
    states: list[SinkState] = field(default_factory=lambda: [SHOP])
    owed: list[Delivery] = field(default_factory=lambda: [OWED])
    done: list[tuple[object, ...]] = field(default_factory=list)
    by: list[str] = field(default_factory=list)
    named: Collection[str] = frozenset({"shop"})
    fails: Exception | None = None

    async def sinks(self) -> Sequence[SinkState]:
        self._fail()
        return self.states

    async def pause(self, name: str, *, by: str = "") -> None:
        self._known(name)
        self.by.append(by)
        self.done.append(("pause", name))

    async def resume(self, name: str, *, from_now: bool = False, by: str = "") -> None:
        self._known(name)
        self.by.append(by)
        self.done.append(("resume", name, from_now))

    async def forget(self, name: str, *, by: str = "") -> None:
        self._known(name)
        self.by.append(by)
        self.done.append(("forget", name))

    async def secrets(self, name: str, client: str | None = None, *, by: str = "") -> Sequence[str]:
        self._known(name)
        self.by.append(by)
        self.done.append(("secrets", name, client))
        return ["whsec_made-up"]

    async def deliveries(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        dead: bool | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
    ) -> Sequence[Delivery]:
        self._fail()
        self.done.append(("deliveries", sink, task_id, dead, after))
        return [one for one in self.owed if after is None or (one.cursor, one.sink) > after][:limit]

    async def replay(self, name: str, again: ReplayFilter, *, dry_run: bool, by: str = "") -> int:
        self._fail()
        self.by.append(by)
        if name not in self.named:
            raise Conflict("the settings name no such sink")
        self.done.append(("replay", name, again, dry_run))
        return 17

    async def give_up(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        event_id: str | None = None,
        dry_run: bool,
        by: str = "",
    ) -> int:
        self.by.append(by)
        if sink is not None:
            self._known(sink)
        self._fail()
        self.done.append(("give up", sink, task_id, event_id, dry_run))
        return 3

    def _known(self, name: str) -> None:
        self._fail()
        if all(state.name != name for state in self.states):
            raise NotFound("there is no such sink")

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails
