"""`homing demo`: the whole of Homing against a sandbox full of faults."""
