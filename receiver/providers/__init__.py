"""The callback verifiers: one file per provider, one line in ``VERIFIERS``.

The tracker's provider parses the body (``Provider.read_callback``).
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from receiver.providers import kling, replicate
from receiver.verification import Verifier
from tracker.errors import SettingsError

# Maps a provider's name to a function that makes its verifier from secrets. It raises ValueError for a bad secret.
VERIFIERS: Final[Mapping[str, Callable[[Sequence[str]], Verifier]]] = MappingProxyType(
    {kling.NAME: kling.verifier, replicate.NAME: replicate.verifier}
)


def verifiers(secrets: Mapping[str, Sequence[str]]) -> Mapping[str, Verifier | None]:
    """Return the verifier of each provider, None if it has no secret. Raises SettingsError, which shows no secret."""
    if unknown := secrets.keys() - VERIFIERS.keys():
        raise SettingsError(f"webhook secrets for {min(unknown)!r}, but callbacks come from: {', '.join(VERIFIERS)}")
    return {name: _verifier(name, secrets.get(name, ())) for name in VERIFIERS}


def _verifier(name: str, secrets: Sequence[str]) -> Verifier | None:
    if not secrets:
        return None
    try:
        return VERIFIERS[name](secrets)
    except ValueError as error:
        raise SettingsError(f"{name} {error}") from None
