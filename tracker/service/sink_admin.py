"""Operations on sinks for the operator: list, pause, resume, delete, replay, dead-letter, and read a secret."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from tracker.errors import Conflict, InvalidRequest, NotFound
from tracker.model.records import IN_PROCESS, Action, AuditEntry
from tracker.model.sinks import CALLBACKS, Delivery, ReplayFilter, SinkSpec, SinkState
from tracker.model.webhook_keys import written_key
from tracker.service.sink_secrets import SinkSecrets
from tracker.storage.store import Store

CLIENT_MISSING: Final = f"sink `{CALLBACKS}` has one secret per client. Choose the client with `client`"


class SinkAdmin:
    """Operations on the sinks of one database. ``sinks`` are the configured ones.

    ``committed`` is called after each change that makes deliveries due.
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
        """Return every sink that was configured at any time and not deleted since."""
        return await self._store.sinks.states()

    # ``by`` is the client that the audit names.

    async def pause(self, name: str, *, by: str = IN_PROCESS) -> None:
        """Stop deliveries to a sink until it is resumed. Its events are kept. Raises NotFound."""
        audit = self._entry(by, Action.PAUSE_SINK, name)
        _found(await self._store.sinks.switch(name, on=False, now=audit.at, audit=audit))

    async def resume(self, name: str, *, from_now: bool = False, by: str = IN_PROCESS) -> None:
        """Resume deliveries to a sink at once. ``from_now`` drops the events that it missed. Raises: NotFound."""
        audit = self._entry(by, Action.RESUME_SINK, name, from_now="yes" if from_now else None)
        _found(await self._store.sinks.switch(name, on=True, now=audit.at, from_now=from_now, audit=audit))
        self._committed()

    async def delete(self, name: str, *, by: str = IN_PROCESS) -> None:
        """Delete a sink and its progress. If it is configured again, it is a new sink. Raises: NotFound, Conflict."""
        if name in self._configured:
            raise Conflict(
                f"sink `{name}` is still configured. Remove it from HOMING_SINKS and restart first, or pause it instead"
            )
        _found(await self._store.sinks.delete(name, audit=self._entry(by, Action.DELETE_SINK, name)))

    async def secrets(self, name: str, client: str | None = None, *, by: str = IN_PROCESS) -> Sequence[str]:
        """Return the secrets that verify the signatures of a sink.

        ``client`` is for the sink that has one secret per client. The audit gets its entry before this returns.

        Raises: NotFound, if the sink does not sign. InvalidRequest, if ``client`` is missing or not expected.
        """
        spec = self._spec(name)
        if spec.signed_per == "client":
            if client is None:
                raise InvalidRequest(CLIENT_MISSING)
            keys = await self._secrets.of_client(client)
        else:
            if client is not None:
                raise InvalidRequest(f"sink `{name}` has one secret for all clients. Remove `client`")
            if spec.signed_per is None:
                raise NotFound(f"sink `{name}` does not sign its events, so it has no secret")
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
        """Return pending deliveries and dead letters in the order of events, after a position (cursor, sink)."""
        return await self._store.deliveries.page(sink=sink, task_id=task_id, dead=dead, after=after, limit=limit)

    async def replay(self, name: str, wanted: ReplayFilter, *, dry_run: bool, by: str = IN_PROCESS) -> int:
        """Replay past events to a sink. Return how many are, or would be, replayed. Raises: NotFound, Conflict."""
        takes = self._spec(name).filter.takes
        if all(state.name != name for state in await self._store.sinks.states()):
            raise NotFound(
                f"sink `{name}` has no progress yet. Start a process that runs the loops, such as `homing serve`"
            )
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
        """Dead-letter pending deliveries that match every given filter. Return how many are, or would be.

        Raises: NotFound, if there is no such sink.
        """
        names = [state.name for state in await self._store.sinks.states() if sink in {None, state.name}]
        _found(sink is None or bool(names))
        count = 0
        # The audit gets one entry for the request, also if it concerns several sinks.
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
            raise Conflict(f"no sink `{name}` is configured in this process. Configured are: {known}")
        return spec


def _found(found: bool) -> None:  # noqa: FBT001 - the result of a store method
    if not found:
        raise NotFound("there is no such sink. `homing sinks` and GET /v1/sinks list all sinks")
