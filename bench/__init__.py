"""The benchmarks: how fast and how sparing Homing is on this machine, beside what it is compared with."""
