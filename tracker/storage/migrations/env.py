"""Alembic's entry: migrates over the connection that ``tracker.storage.migrate`` passes in."""

from alembic import context
from sqlmodel import SQLModel

from tracker.storage import tables

assert tables.TaskRow.metadata is SQLModel.metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
