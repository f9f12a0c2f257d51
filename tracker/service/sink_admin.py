"""What an operator does about sinks: see how far they are, turn them on and off, tell them again, give up, forget."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, Protocol

from tracker.errors import Conflict, NotFound
from tracker.model.event import PublishedEvent
from tracker.model.records import IN_PROCESS, Action, AuditEntry
from tracker.model.sinks import Delivery, ReplayFilter, SinkState
from tracker.storage.store import Store


class NamedSink(Protocol):
    """A sink that the settings name, as far as an operator needs it."""

    def takes(self, told: PublishedEvent) -> bool:
        """Return whether an event is for it."""

    async def secrets(self, client: str | None) -> Sequence[str]:
        """Return what its signatures are proven with, the signing one first; none where it signs nothing.

        ``client`` says whose, where each client has another. Raises InvalidRequest where it has to be said, and where
        it must not.
        """


NO_SINKS: Final[Mapping[str, NamedSink]] = MappingProxyType({})


class Switchboard:
    """The sinks of one database; ``named`` are those that the settings of this process name."""

    def __init__(
        self,
        store: Store,
        *,
        named: Mapping[str, NamedSink],
        clock: Callable[[], datetime],
        committed: Callable[[], None],
    ) -> None:
        self._store = store
        self._named = named
        self._clock = clock
        self._committed = committed

    @property
    def named(self) -> frozenset[str]:
        """The names of the sinks that the settings of this process name."""
        return frozenset(self._named)

    async def sinks(self) -> Sequence[SinkState]:
        """Return every sink that was ever named and not forgotten."""
        return await self._store.sinks.states()

    # ``by`` is the client whose name the audit gets.

    async def pause(self, name: str, *, by: str = IN_PROCESS) -> None:
        """Stop deliveries to a sink until it is resumed. Its events are kept. Raises NotFound."""
        audit = self._entry(by, Action.PAUSE_SINK, name)
        _found(await self._store.sinks.switch(name, on=False, now=audit.at, audit=audit))

    async def resume(self, name: str, *, from_now: bool = False, by: str = IN_PROCESS) -> None:
        """Go on telling a sink, and at once; ``from_now`` forgets what it has missed. Raises NotFound."""
        audit = self._entry(by, Action.RESUME_SINK, name, from_now="yes" if from_now else None)
        _found(await self._store.sinks.switch(name, on=True, now=audit.at, from_now=from_now, audit=audit))
        self._committed()

    async def forget(self, name: str, *, by: str = IN_PROCESS) -> None:
        """Forget how far a sink was told; named again it is a new one. Raises NotFound."""
        if name in self._named:
            raise Conflict(
                f"{name} is still configured. Remove it from HOMING_SINKS and restart before you delete it, or pause it"
            )
        _found(await self._store.sinks.delete(name, audit=self._entry(by, Action.DELETE_SINK, name)))

    async def secrets(self, name: str, client: str | None = None, *, by: str = IN_PROCESS) -> Sequence[str]:
        """Return the secret that verifies the signatures of a sink. Raises NotFound for a sink that does not sign.

        It is recorded before it is given: where that fails, nothing is given.
        """
        secrets = await self._here(name).secrets(client)
        if not secrets:
            raise NotFound(f"what goes to {name} is not signed")
        await self._store.audit.write(self._entry(by, Action.READ_SECRET, name, client=client))
        return secrets

    async def deliveries(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        dead: bool | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
    ) -> Sequence[Delivery]:
        """Return what sinks could not be told, in the order of the events; ``after`` is a place (cursor, sink)."""
        return await self._store.deliveries.page(sink=sink, task_id=task_id, dead=dead, after=after, limit=limit)

    async def replay(self, name: str, again: ReplayFilter, *, dry_run: bool, by: str = IN_PROCESS) -> int:
        """Replay past events to a sink, and return how many there are, or would be. Raises NotFound and Conflict."""
        takes = self._here(name).takes
        if all(state.name != name for state in await self._store.sinks.states()):
            raise NotFound(f"{name} was told nothing yet: it begins when a process with the loops is started")
        said = {
            "task": again.task_id,
            "since": again.since.isoformat() if again.since is not None else None,
            "until": again.until.isoformat() if again.until is not None else None,
            "dead": "yes" if again.dead else None,
        }
        audit = self._entry(by, Action.REPLAY, name, **said)
        count = await self._store.deliveries.replay(name, again, takes, now=audit.at, dry_run=dry_run, audit=audit)
        if not dry_run:
            self._committed()
        return count

    async def give_up(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        event_id: str | None = None,
        dry_run: bool,
        by: str = IN_PROCESS,
    ) -> int:
        """Dead-letter pending deliveries, and return how many there are, or would be.

        What is given narrows. Raises NotFound where there is no such sink.
        """
        names = [state.name for state in await self._store.sinks.states() if sink in {None, state.name}]
        _found(sink is None or bool(names))
        count = 0
        # One wish is one entry, however many sinks it concerns.
        audit: AuditEntry | None = self._entry(
            by, Action.DEAD_LETTER, sink or "every sink", task=task_id, event=event_id
        )
        for name in names:
            count += await self._store.deliveries.dead_letter(
                name, task_id=task_id, event_id=event_id, now=self._clock(), dry_run=dry_run, audit=audit
            )
            audit = None
        if not dry_run:
            self._committed()
        return count

    def _entry(self, by: str, action: Action, name: str, **said: str | None) -> AuditEntry:
        detail = " ".join(f"{word}={value}" for word, value in said.items() if value)
        return AuditEntry(at=self._clock(), client=by, action=action, object=name, detail=detail)

    def _here(self, name: str) -> NamedSink:
        sink = self._named.get(name)
        if sink is None:
            known = ", ".join(sorted(self._named)) or "none"
            raise Conflict(f"the settings of this process name no sink {name!r}; it knows: {known}")
        return sink


def _found(found: bool) -> None:  # noqa: FBT001 - what a verb of the store gave
    if not found:
        raise NotFound("there is no such sink; GET /v1/sinks, or homing sinks, lists them")
