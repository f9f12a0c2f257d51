"""The keys that clients prove themselves with, and what a key must be made of."""

import re
from dataclasses import dataclass, field
from typing import Final

from tracker.model.published_secrets import REPLACE, is_published, is_quoted

LEAST_KEY_LENGTH: Final = 16
SECRET_BYTES: Final = 32
# What a bearer credential may be made of: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
BEARER: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedKey:
    """A bearer key and whose it is; two keys of one name are that client's old and new one.

    ``sees_all`` shows every client's tasks and allows what concerns all of them (``name*:key`` in the settings).
    """

    name: str
    key: str = field(repr=False)
    sees_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """An access key, which is the client's name, and the secret that its tokens are signed with."""

    access: str
    secret: str = field(repr=False)


def key_fault(key: str) -> str | None:
    """Return why a text cannot be an API key, or None."""
    if len(key) < LEAST_KEY_LENGTH:
        return f"is shorter than {LEAST_KEY_LENGTH} characters"
    if not BEARER.fullmatch(key):
        return "holds a character that no key has; look for quotes, blanks, colons and semicolons"
    return REPLACE if is_published(key) else None


def secret_fault(secret: str) -> str | None:
    """Return why a text cannot be the secret that tokens are signed with, or None."""
    if len(secret.encode()) < SECRET_BYTES:
        return f"is shorter than {SECRET_BYTES} bytes"
    if is_quoted(secret):
        return "is in quotes; take them off"
    return REPLACE if is_published(secret) else None
