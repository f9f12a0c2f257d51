"""A sink's callable that takes everything and does nothing."""


async def take(_event: object) -> None:
    """Take one event."""
