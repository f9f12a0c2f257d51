"""The benchmarks: speed and resource use of Homing on this machine, compared with other servers."""
