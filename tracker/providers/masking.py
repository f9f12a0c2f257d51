"""Masks texts from a provider: only their beginning is shown, without credentials."""

import re
from typing import Final
from urllib.parse import quote

from tracker.providers.base import ApiKey, Credential, KeyPair

EXCERPT_SHOWN: Final = 200
MASK: Final = "***"
# A token made from a key pair, or any text in the place of a token.
_TOKENS: Final = re.compile(r"\beyJ[\w-]+\.[\w.-]*|\b(?<=bearer )\S+", re.IGNORECASE | re.ASCII)


def masked(text: str, credential: Credential) -> str:
    """Return a text with the credential and every possible token masked."""
    for secret in _secrets(credential):
        for written in {secret, quote(secret, safe="")}:
            text = text.replace(written, MASK)
    return _TOKENS.sub(MASK, text)


def excerpt(text: str, credential: Credential) -> str:
    """Return at most the first ``EXCERPT_SHOWN`` characters of a text, printable, with the credential masked."""
    text = masked(text, credential)
    printable = "".join(character if character.isprintable() else " " for character in text[: EXCERPT_SHOWN * 4])
    return " ".join(printable.split())[:EXCERPT_SHOWN]


def _secrets(credential: Credential) -> tuple[str, ...]:
    match credential:
        case ApiKey():
            return (credential.key,)
        case KeyPair():
            return (credential.secret_key, credential.access_key)
        case None:
            return ()
