"""The secrets that stand in this repository as examples, which anybody can read: no settings may use them.

A copy of an example that nobody edited would otherwise start with a key that the whole world knows.
``tests/unit/model/test_published_secrets.py`` finds those that are missing here.
"""

from typing import Final
from urllib.parse import unquote, urlsplit

PUBLISHED: Final = frozenset({
    "made-up-key-replace-me",
    "made-up-key-for-trying",
    "made-up-secret-of-at-least-32-bytes",
    "made-up-provider-key",
    "made-up-secret-key-of-at-least-32-bytes",
    "made-up-callback-secret-of-at-least-32-bytes",
    "whsec_bWFkZS11cC13ZWJob29rLXNlY3JldC0zMi1ieXRlcyE=",
    "whsec_bWFkZSB1cA==",
    "made-up-password",
    "madeupdatabasepassword",
    "made-up-token",
    "madeuptoken",
})  # fmt: skip
REPLACE: Final = "is an example that everybody can read; replace it"


def url_secrets(url: str) -> tuple[str, ...]:
    """Return what may be secret in a URL: its password and its user name, which may be a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    return tuple(unquote(part) for part in (parts.username, parts.password) if part)


def is_quoted(secret: str) -> bool:
    """Return whether quotes came along as a secret was copied."""
    return not {secret[:1], secret[-1:]}.isdisjoint({'"', "'", "`"})


def is_published(secret: str) -> bool:
    """Return whether a secret stands in this repository."""
    return secret in PUBLISHED
