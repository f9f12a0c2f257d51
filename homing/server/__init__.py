"""The parts of a process that runs the app of `homing serve`: the HTTP server, its loops, its lock and its logs."""
