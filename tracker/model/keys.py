"""The keys that authenticate clients, and the rules for the text of a key."""

import re
from dataclasses import dataclass, field
from typing import Final

from tracker.model.published_secrets import REPLACE, is_published, is_quoted

MIN_KEY_LENGTH: Final = 16
MIN_SECRET_BYTES: Final = 32
# The characters of a bearer credential: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
BEARER: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedKey:
    """A bearer key and the name of its client. Two keys of one name are the client's old and new key.

    With ``sees_all``, the client sees the tasks of all clients and may run operator commands (``name*:key`` in the
    settings).
    """

    name: str
    key: str = field(repr=False)
    sees_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """An access key, which is the name of the client, and the secret that signs its tokens."""

    access: str
    secret: str = field(repr=False)


def key_fault(key: str) -> str | None:
    """Return why a text cannot be an API key, or None."""
    if len(key) < MIN_KEY_LENGTH:
        return f"is shorter than {MIN_KEY_LENGTH} characters"
    if not BEARER.fullmatch(key):
        return "has a character that is not allowed. Look for quotes, blanks, colons and semicolons"
    return REPLACE if is_published(key) else None


def secret_fault(secret: str) -> str | None:
    """Return why a text cannot be a secret that signs tokens, or None."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        return f"is shorter than {MIN_SECRET_BYTES} bytes"
    if is_quoted(secret):
        return "is in quotes. Remove them"
    return REPLACE if is_published(secret) else None
