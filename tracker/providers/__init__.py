"""The providers: functions that shape calls and read replies, without I/O."""
