"""The store: all SQL, on SQLite now and PostgreSQL later."""
