"""The loops of a process. Each round is ``run_once()``. The clock is passed in."""
