"""The engine that delivers events to sinks: acquire the lease, read, group, send, record."""
