"""Recorded helper calls, and the clients to whom voices, elements and sessions belong."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# The kinds that make voices and elements.
KINDS = ("general/custom-voices", "general/advanced-custom-elements")
CLAIM = ("provider", "account", "type", "object_id", "client", "kind", "provider_task_id", "verified", "at")


def upgrade() -> None:
    op.create_table(
        "helper_calls",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("provider", "account", "client", "call")),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    named = sa.text("idempotency_key IS NOT NULL")
    op.create_index(
        "ux_helper_calls_idempotency_key",
        "helper_calls",
        ["client", "idempotency_key"],
        unique=True,
        sqlite_where=named,
        postgresql_where=named,
    )
    sending = sa.text("state = 'sending'")
    op.create_index(
        "ix_helper_calls_sending", "helper_calls", ["until"], sqlite_where=sending, postgresql_where=sending
    )
    op.create_index("ix_helper_calls_created", "helper_calls", ["created_at"])
    op.create_table(
        "object_claims",
        *(sa.Column(name, sa.Text(), nullable=False) for name in CLAIM[:6]),
        sa.Column("provider_task_id", sa.Text(), nullable=True),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*CLAIM[:5]),
    )
    op.create_index("ix_object_claims_type", "object_claims", ["type", "at"])
    _claim_existing()


def _claim_existing() -> None:
    """Claim the voices and elements that tasks made before this version. A query verifies them when they are used."""
    names = ("provider", "account", "client", "kind", "provider_task_id", "updated_at", "facts", "status")
    tasks = sa.table("tasks", *(sa.column(name) for name in names))
    connection = op.get_bind()
    made = sa.select(tasks).where(tasks.c.kind.in_(KINDS), tasks.c.status == "succeeded")
    claims: dict[tuple[str, ...], dict[str, object]] = {}
    for task in connection.execute(made).mappings():
        fact = json.loads(task["facts"]).get("assets") or [[]]
        for asset in fact[-1]:
            if asset.get("kind") in {"voice", "element"} and asset.get("provider_asset_id"):
                key = (task["provider"], task["account"], asset["kind"], asset["provider_asset_id"], task["client"])
                values = (*key, task["kind"], task["provider_task_id"], False, task["updated_at"])
                claims[key] = dict(zip(CLAIM, values, strict=True))
    if claims:
        columns = [sa.column(name, sa.Boolean() if name == "verified" else None) for name in CLAIM]
        connection.execute(sa.insert(sa.table("object_claims", *columns)), list(claims.values()))
