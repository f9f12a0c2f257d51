"""Alembic's entry: migrates over the connection that ``tracker.storage.migrate`` passes in."""

from alembic import context

from tracker.storage import tables
from tracker.storage.columns import METADATA, complete_indexes

assert tables.TaskRow.metadata is METADATA

complete_indexes()
context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    target_metadata=METADATA,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
