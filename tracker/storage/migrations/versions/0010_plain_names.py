"""Plain names: columns, tables and stored values use the names of the API."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COLUMNS = {
    "tasks": {
        "heard_at": "last_observed_at",
        "callback_asked": "callback_requested",
        "polls": "poll_count",
        "learned_from": "status_source",
        "learned_trust": "status_trust",
        "standing_asked": "precedence_polled",
        "standing_updated_at": "precedence_updated_at",
        "conflict_claims": "conflict_statuses",
        "caller_callback_url": "client_callback_url",
    },
    "observations": {"word": "provider_status"},
    "orphans": {
        "word": "provider_status",
        "deliveries": "callbacks",
        "checks": "poll_count",
        "next_check_at": "next_poll_at",
    },
}
# The old value, the new value, and their tables and columns.
VALUES = (
    ("observations", "verdict", "moved", "applied"),
    ("observations", "verdict", "hinted", "unverified"),
    ("alarms", "kind", "unknown_word", "unknown_status"),
    ("events", "type", "homing.alarm.unknown_word", "homing.alarm.unknown_status"),
    ("counters", "name", "deliveries", "callbacks"),
    ("counters", "name", "hints", "unverified_callbacks"),
)
# The keys in an event's data. A text that contains such a key has it with escaped quotes, and does not change.
EVENT_KEYS = {
    "standing": "precedence",
    "asked": "polled",
    **{name: COLUMNS["tasks"][name] for name in ("learned_from", "learned_trust", "heard_at", "polls")},
    **{name: COLUMNS["tasks"][name] for name in ("callback_asked", "conflict_claims")},
}
# The number of waiting orphans is limited per URL, so the old and the new orphans of a URL need the same name.
ORPHAN_URLS = """
UPDATE orphans SET address = replace(replace(address, 'standing address ', 'shared URL '), 'task address ', 'task ')
"""
# This key, which begins with the source and the trust level, identifies the repeats of a callback.
CALLBACK_KEYS = """
UPDATE observations SET dedupe_key = 'callback|unverified|' || substr(dedupe_key, 15)
WHERE dedupe_key LIKE 'callback|hint|%'
"""
ALARM_EVENTS = """
UPDATE events SET data = replace(data, '"unknown_word"', '"unknown_status"')
WHERE task_id IS NULL AND type = 'homing.alarm.unknown_status'
"""


def upgrade() -> None:
    for table, renamed in COLUMNS.items():
        for before, after in renamed.items():
            # Do not use a batch, because that would copy the table on SQLite, which can rename a column in place.
            op.execute(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}")
    for table, column, before, after in VALUES:
        statement = f"UPDATE {table} SET {column} = :after WHERE {column} = :before"  # noqa: S608 - all names stand above
        op.execute(sa.text(statement).bindparams(before=before, after=after))
    op.execute(ALARM_EVENTS)
    op.execute(ORPHAN_URLS)
    op.execute(CALLBACK_KEYS)
    data: sa.ColumnElement[str] = sa.column("data", sa.Text)
    for before, after in EVENT_KEYS.items():
        data = sa.func.replace(data, f'"{before}":', f'"{after}":')
    events = sa.table("events", sa.column("data"), sa.column("task_id"))
    op.execute(sa.update(events).where(events.c.task_id.is_not(None)).values(data=data))
