"""The function of a sink that accepts every event and does nothing."""


async def take(_event: object) -> None:
    """Accept one event."""
