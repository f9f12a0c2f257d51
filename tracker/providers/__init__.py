"""The providers: how each one is called and read, without I/O."""
