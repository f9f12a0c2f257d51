"""Telling others: the relay, and one file for each kind of sink."""
