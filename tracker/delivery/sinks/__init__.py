"""The sinks: one file for each kind of destination, and their shared code."""
