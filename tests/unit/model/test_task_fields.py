"""Tests that every task field is in each place that lists the fields, or is an exception in this file.

For a missing field, the failure says where to add it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import Final

import pytest

from tests.support.published_events import a_success
from tracker.api.schemas import TaskShown
from tracker.model.event import task_data
from tracker.model.task import Task
from tracker.storage import rows
from tracker.storage.event_rows import TaskSnapshot
from tracker.storage.tables import TASKS

FIELDS: Final = tuple(field.name for field in fields(Task))
# Columns that hold a part of a field under another name.
COLUMNS_OF: Final[Mapping[str, Collection[str]]] = {"precedence": ("precedence_polled", "precedence_updated_at")}
# Events omit fields that never change and fields that only the tracker uses.
NOT_IN_EVENTS: Final = frozenset(
    {
        *("id", "provider", "kind", "account", "client", "origin", "created_at", "deadline_at", "version"),
        *("external_id", "sent_external_id", "idempotency_key", "request", "request_hash", "tags", "metadata"),
        *("model", "client_callback_url", "candidate_id", "unproven_id_from", "taken_by", "released", "unsigned"),
        *("attempts", "attempt_deadline_at", "not_found", "duplicate_at", "answered_at", "quiet_polls"),
        *("lease_owner", "lease_until"),
    }
)
# Clients see these under other names: the trust in status_source, the conflict, and the facts.
SHOWN_OTHERWISE: Final = frozenset({"status_trust", "conflict_statuses", "facts"})
# Clients never see these.
HIDDEN: Final = frozenset(
    {
        *("account", "sent_external_id", "idempotency_key", "request_hash", "client_callback_url"),
        *("candidate_id", "unproven_id_from", "taken_by", "released", "unsigned", "precedence"),
        *("attempts", "attempt_deadline_at", "not_found", "duplicate_at", "answered_at", "quiet_polls"),
        *("lease_owner", "lease_until"),
    }
)
SHOWN: Final = frozenset(task_data(a_success()))


def missing(names: Collection[str]) -> Iterator[str]:
    """Yield one sentence for each place where a field is missing."""
    here = "tests/unit/model/test_task_fields.py"
    for name in names:
        columns = COLUMNS_OF.get(name, (name,))
        if not set(columns) <= set(TASKS.columns.keys()):
            yield f"{name}: add a column to TaskRow in tracker/storage/tables.py, and a migration"
        if not set(columns) <= set(rows.COLUMNS):
            yield f"{name}: add it to PLAIN, FLAGS, TIMES or COLUMNS in tracker/storage/rows.py"
        if name not in TaskSnapshot.__struct_fields__ and name not in NOT_IN_EVENTS:
            yield f"{name}: add it to TaskSnapshot in tracker/storage/event_rows.py, or to NOT_IN_EVENTS in {here}"
        if name not in SHOWN | SHOWN_OTHERWISE | HIDDEN:
            yield f"{name}: add it to task_data in tracker/model/event.py, or to HIDDEN in {here}"
        if name not in TaskShown.model_fields and name not in SHOWN_OTHERWISE | HIDDEN:
            yield f"{name}: add it to TaskShown in tracker/api/schemas.py, or to HIDDEN in {here}"


def test_every_task_field_is_in_every_place() -> None:
    sentences = list(missing(FIELDS))

    assert not sentences, "\n".join(sentences)


def test_new_task_field_is_missing_in_five_places() -> None:
    assert [sentence.partition(" in ")[0] for sentence in missing(["brand_new"])] == [
        "brand_new: add a column to TaskRow",
        "brand_new: add it to PLAIN, FLAGS, TIMES or COLUMNS",
        "brand_new: add it to TaskSnapshot",
        "brand_new: add it to task_data",
        "brand_new: add it to TaskShown",
    ]


def test_event_and_api_fields_are_equal() -> None:
    assert set(TaskShown.model_fields) == SHOWN


@pytest.mark.parametrize(
    ("exceptions", "place"),
    [
        (NOT_IN_EVENTS, TaskSnapshot.__struct_fields__),
        (HIDDEN, SHOWN),
        (SHOWN_OTHERWISE, SHOWN),
    ],
    ids=["NOT_IN_EVENTS", "HIDDEN", "SHOWN_OTHERWISE"],
)
def test_field_exception_is_missing_in_its_place(exceptions: Collection[str], place: Collection[str]) -> None:
    assert sorted(set(exceptions) - set(FIELDS)) == []
    assert sorted(set(exceptions) & set(place)) == []
