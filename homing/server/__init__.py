"""What `homing serve` runs its application in: the HTTP server, its loops, its lock and its logs."""
