"""The execution of transactions, on SQLite and on PostgreSQL."""
