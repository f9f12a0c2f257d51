"""Masks texts from a provider: only their beginning is shown, without credentials."""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from tracker.model.untrusted import JsonValue
from tracker.providers.base import ApiKey, Credential, KeyPair

EXCERPT_SHOWN: Final = 200
MASK: Final = "***"
# A token made from a key pair, or any text in the place of a token.
_TOKENS: Final = re.compile(r"\beyJ[\w-]+\.[\w.-]*|\b(?<=bearer )\S+", re.IGNORECASE | re.ASCII)


def masked(text: str, credential: Credential) -> str:
    """Return a text with the credential and every possible token masked."""
    for secret in secrets_of(credential):
        for written in {secret, quote(secret, safe="")}:
            text = text.replace(written, MASK)
    return _TOKENS.sub(MASK, text)


def masked_values(value: JsonValue, secrets: Iterable[str]) -> JsonValue:
    """Return a JSON value with these secrets masked in every text. Other tokens, such as those of URLs, stay."""
    written = {each for secret in secrets if secret for each in (secret, quote(secret, safe=""))}

    def masked_in(part: JsonValue) -> JsonValue:
        match part:
            case str():
                for secret in written:
                    part = part.replace(secret, MASK)
                return part
            case list():
                return [masked_in(each) for each in part]
            case dict():
                return {str(masked_in(name)): masked_in(each) for name, each in part.items()}
            case _:
                return part

    return masked_in(value)


def excerpt(text: str, credential: Credential) -> str:
    """Return at most the first ``EXCERPT_SHOWN`` characters of a text, printable, with the credential masked."""
    text = masked(text, credential)
    printable = "".join(character if character.isprintable() else " " for character in text[: EXCERPT_SHOWN * 4])
    return " ".join(printable.split())[:EXCERPT_SHOWN]


def secrets_of(credential: Credential) -> tuple[str, ...]:
    """Return the secret texts of a credential."""
    match credential:
        case ApiKey():
            return (credential.key,)
        case KeyPair():
            return (credential.secret_key, credential.access_key)
        case None:
            return ()
