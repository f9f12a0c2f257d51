"""What an operator does with sinks: see their lag, pause, resume, delete, replay, dead-letter, read a secret."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from tracker.errors import Conflict, InvalidRequest, NotFound
from tracker.model.records import IN_PROCESS, Action, AuditEntry
from tracker.model.sinks import Delivery, ReplayFilter, SinkSpec, SinkState
from tracker.model.webhook_keys import written_key
from tracker.service.sink_secrets import SinkSecrets
from tracker.storage.store import Store

CLIENT_MISSING: Final = (
    "each client that is called back has a secret of its own: say with client, or --client, whose you want"
)


class SinkAdmin:
    """The sinks of one database; ``sinks`` are those that this process is configured with.

    ``committed`` is called after a change that makes deliveries due.
    """

    def __init__(
        self,
        store: Store,
        sinks: Sequence[SinkSpec],
        secrets: SinkSecrets,
        *,
        clock: Callable[[], datetime],
        committed: Callable[[], None],
    ) -> None:
        self._store = store
        self._configured = {spec.name: spec for spec in sinks}
        self._secrets = secrets
        self._clock = clock
        self._committed = committed

    @property
    def names(self) -> frozenset[str]:
        """The names of the sinks that this process is configured with."""
        return frozenset(self._configured)

    async def sinks(self) -> Sequence[SinkState]:
        """Return every sink that was ever configured and not deleted."""
        return await self._store.sinks.states()

    # ``by`` is the client whose name the audit gets.

    async def pause(self, name: str, *, by: str = IN_PROCESS) -> None:
        """Stop deliveries to a sink until it is resumed. Its events are kept. Raises NotFound."""
        audit = self._entry(by, Action.PAUSE_SINK, name)
        _found(await self._store.sinks.switch(name, on=False, now=audit.at, audit=audit))

    async def resume(self, name: str, *, from_now: bool = False, by: str = IN_PROCESS) -> None:
        """Deliver to a sink again, and at once; ``from_now`` drops what it has missed. Raises NotFound."""
        audit = self._entry(by, Action.RESUME_SINK, name, from_now="yes" if from_now else None)
        _found(await self._store.sinks.switch(name, on=True, now=audit.at, from_now=from_now, audit=audit))
        self._committed()

    async def delete(self, name: str, *, by: str = IN_PROCESS) -> None:
        """Delete a sink and its progress; configured again it is a new one. Raises NotFound and Conflict."""
        if name in self._configured:
            raise Conflict(
                f"{name} is still configured. Remove it from HOMING_SINKS and restart before you delete it, or pause it"
            )
        _found(await self._store.sinks.delete(name, audit=self._entry(by, Action.DELETE_SINK, name)))

    async def secrets(self, name: str, client: str | None = None, *, by: str = IN_PROCESS) -> Sequence[str]:
        """Return the secrets that verify the signatures of a sink, the signing one first.

        ``client`` says whose, where each client has another. The audit is written before anything is returned. Raises
        NotFound for a sink that does not sign; InvalidRequest where ``client`` is missing, or is not expected.
        """
        spec = self._spec(name)
        if spec.signed_per == "client":
            if client is None:
                raise InvalidRequest(CLIENT_MISSING)
            keys = await self._secrets.of_client(client)
        else:
            if client is not None:
                raise InvalidRequest(f"{name} has one secret for everybody: leave the client out")
            if spec.signed_per is None:
                raise NotFound(f"what goes to {name} is not signed")
            keys = await self._secrets.of_sink(name)
        await self._store.audit.write(self._entry(by, Action.READ_SECRET, name, client=client))
        return [written_key(key) for key in keys]

    async def deliveries(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        dead: bool | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
    ) -> Sequence[Delivery]:
        """Return pending deliveries and dead letters, by event; ``after`` is a place (cursor, sink)."""
        return await self._store.deliveries.page(sink=sink, task_id=task_id, dead=dead, after=after, limit=limit)

    async def replay(self, name: str, wanted: ReplayFilter, *, dry_run: bool, by: str = IN_PROCESS) -> int:
        """Replay past events to a sink, and return how many there are, or would be. Raises NotFound and Conflict."""
        takes = self._spec(name).filter.takes
        if all(state.name != name for state in await self._store.sinks.states()):
            raise NotFound(f"{name} has no progress yet: it begins when a process with the loops is started")
        said = {
            "task": wanted.task_id,
            "since": wanted.since.isoformat() if wanted.since is not None else None,
            "until": wanted.until.isoformat() if wanted.until is not None else None,
            "dead": "yes" if wanted.dead else None,
        }
        audit = self._entry(by, Action.REPLAY, name, **said)
        count = await self._store.deliveries.replay(name, wanted, takes, now=audit.at, dry_run=dry_run, audit=audit)
        if not dry_run:
            self._committed()
        return count

    async def dead_letter(
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
        # One request is one entry, however many sinks it concerns.
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
        detail = " ".join(f"{name}={value}" for name, value in said.items() if value)
        return AuditEntry(at=self._clock(), client=by, action=action, object=name, detail=detail)

    def _spec(self, name: str) -> SinkSpec:
        spec = self._configured.get(name)
        if spec is None:
            known = ", ".join(sorted(self._configured)) or "none"
            raise Conflict(f"the settings of this process name no sink {name!r}; it knows: {known}")
        return spec


def _found(found: bool) -> None:  # noqa: FBT001 - what a verb of the store gave
    if not found:
        raise NotFound("there is no such sink; GET /v1/sinks, or homing sinks, lists them")
