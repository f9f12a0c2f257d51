"""The engine that moves events to sinks: claim, read, group, send, record."""
