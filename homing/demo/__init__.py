"""`homing demo`: Homing against a sandbox full of faults."""
