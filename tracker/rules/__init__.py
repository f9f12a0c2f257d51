"""Decisions: pure functions from the known rows to a Change. Every path to the store is here."""
