"""How each provider's callbacks are proven: one file per provider, one line in ``VERIFIERS``.

How they are read is borrowed from the tracker's provider (``Provider.read_callback``).
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from receiver.providers import kling
from receiver.verification import Verifier
from tracker.errors import SettingsError

# From the provider's name to what makes a verifier of its secrets (ValueError where one cannot be used).
VERIFIERS: Final[Mapping[str, Callable[[Sequence[str]], Verifier]]] = MappingProxyType({kling.NAME: kling.verifier})


def verifiers(secrets: Mapping[str, Sequence[str]]) -> Mapping[str, Verifier | None]:
    """Return every provider's verifier, None where it has no secret. Raises SettingsError that shows no secret."""
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
