"""Small makers of the values that the tests speak about; every field that a test does not name is a harmless one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from tracker.model.changes import Change, Entry, Key, Known, RecordChange, Work, by_id
from tracker.model.helper_records import HelperRecord
from tracker.model.records import Completion, HistoryEntry, Orphan
from tracker.model.sinks import SinkSpec
from tracker.model.task import Asset, Event, Observation, Report, Source, Status, Task, Trust, Verdict, new_task_id
from tracker.rules.submits import RecordLate

T = TypeVar("T")

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OMNI = "images/omni-image"
THEIR_ID = "provider-1"
OUR_ID = new_task_id(NOW, bytes(9) + b"\1")
PICTURE = Asset(kind="image", url="https://results.example/1.png")


def a_task(number: int = 1, **changes: Any) -> Task:
    """Return a task submitted under its own ID; ``number`` distinguishes and orders tasks."""
    at = NOW + timedelta(seconds=number - 1)
    task_id = new_task_id(at, number.to_bytes(10, "big"))
    values: dict[str, Any] = {
        "id": task_id,
        "provider": "kling",
        "kind": OMNI,
        "account": "default",
        "client": "studio",
        "origin": "submit",
        "created_at": at,
        "updated_at": at,
        "deadline_at": at + timedelta(hours=24),
        "sent_external_id": task_id,
    }
    return Task(**(values | changes))


def a_report(status: Status | None = Status.SUCCEEDED, **changes: Any) -> Report:
    """Return a provider's report about the first task."""
    values: dict[str, Any] = {
        "provider_task_id": THEIR_ID,
        "external_id": OUR_ID,
        "status": status,
        "provider_status": "nonsense" if status is None else status.value,
    }
    return Report(**(values | changes))


def by_callback(report: Report, trust: Trust = Trust.TOKEN, **changes: Any) -> Observation:
    """Make a delivery of ``claim``."""
    values: dict[str, Any] = {"source": Source.CALLBACK, "trust": trust, "report": report, "at": NOW}
    return Observation(**(values | changes))


def by_poll(report: Report, **changes: Any) -> Observation:
    """Make the provider's own answer."""
    values: dict[str, Any] = {"source": Source.POLL, "trust": Trust.PROVIDER, "report": report, "at": NOW}
    return Observation(**(values | changes))


def inferred(status: Status, source: Source = Source.CLOCK, **changes: Any) -> Observation:
    """Return an inference by Homing: an expiry by the clock, or a refusal."""
    values: dict[str, Any] = {"source": source, "trust": Trust.PROVIDER, "report": Report(status=status), "at": NOW}
    return Observation(**(values | changes))


def a_helper_call(**changes: Any) -> HelperRecord:
    values: dict[str, Any] = {
        "provider": "kling",
        "account": "default",
        "client": "local",
        "call": "POST /v1/audio/tts",
        "request_hash": "a",
        "idempotency_key": None,
        "owner": "somebody",
        "created_at": NOW,
        "until": NOW + timedelta(minutes=1),
    }
    return HelperRecord(**(values | changes))


def a_sink(*, name: str, address: str, beginning: bool = False) -> SinkSpec:
    """Return a configured sink. The scheme is that of its address, and nothing is secret."""
    return SinkSpec(name=name, scheme=address.partition(":")[0], target=address, address=address, beginning=beginning)


def an_entry(task: Task, dedupe_key: str, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "id": 0,
        "task_id": task.id,
        "at": NOW,
        "source": Source.CALLBACK,
        "trust": Trust.TOKEN,
        "provider_status": "processing",
        "status": Status.PROCESSING,
        "verdict": Verdict.APPLIED,
        "why": "submitted → processing",
        "provider_updated_at": None,
        "body": b"{}",
    }
    return Entry(dedupe_key=dedupe_key, shown=HistoryEntry(**(values | changes)))


def an_event(task: Task, sequence: int, name: str = "processing") -> Event:
    return Event(type=f"homing.task.{name}", task=replace(task, version=sequence, status=Status(name)), at=NOW)


def an_orphan(**changes: Any) -> Orphan:
    values: dict[str, Any] = {
        "id": 0,
        "provider": "kling",
        "provider_task_id": "unknown-1",
        "external_id": None,
        "kind": None,
        "client": "studio",
        "address": "shared URL 1",
        "provider_status": "submitted",
        "state": "waiting",
        "why": "no such task is known",
        "first_at": NOW,
        "last_at": NOW,
        "callbacks": 1,
        "poll_count": 0,
        "next_poll_at": NOW,
        "task_id": None,
        "body": b"{}",
    }
    return Orphan(**(values | changes))


def a_completion(number: int = 1, took: timedelta = timedelta(seconds=20), **changes: Any) -> Completion:
    """Return one finished task of a model, in the order of ``number``."""
    values: dict[str, Any] = {
        "task_id": f"hm{number:06d}",
        "provider": "kling",
        "kind": OMNI,
        "model": "kling-v3-omni",
        "took": took,
        "finished_at": NOW + timedelta(seconds=number),
        "callback_requested": True,
        "callback_arrived": True,
    }
    return Completion(**(values | changes))


def writing(task: Task | None = None, *keys: Key, **parts: Any) -> Work[Any]:
    """Return a batch item that writes ``task`` and the given parts of a Change."""
    change: Change[Any] = Change(**({"result": task, "task": task} | parts))
    return RecordChange(change, keys=frozenset(keys or ({by_id(task.id)} if task is not None else set())))


@dataclass(frozen=True, kw_only=True)
class Deciding(Generic[T]):
    """Work whose decision is a function of the test's own."""

    keys: frozenset[Key]
    decide: Callable[[Known], Change[T]]


def name_of(work: Work[Any]) -> str:
    """Return the class of a piece of work; of a late outcome that of the outcome."""
    return type(work.outcome if isinstance(work, RecordLate) else work).__name__
