"""The example secrets of this repository. They are public, so no setting may use them.

Otherwise an unedited copy of an example would start with a public key. A test finds examples that are missing here
(``tests/unit/model/test_published_secrets.py``).
"""

from typing import Final
from urllib.parse import unquote, urlsplit

PUBLISHED: Final = frozenset({
    "made-up-key-replace-me",
    "made-up-key-for-trying",
    "made-up-secret-of-at-least-32-bytes",
    "made-up-provider-key",
    "made-up-replicate-key",
    "made-up-secret-key-of-at-least-32-bytes",
    "made-up-callback-secret-of-at-least-32-bytes",
    "whsec_bWFkZS11cC13ZWJob29rLXNlY3JldC0zMi1ieXRlcyE=",
    "whsec_bWFkZSB1cA==",
    "made-up-password",
    "madeupdatabasepassword",
    "made-up-token",
    "madeuptoken",
})  # fmt: skip
REPLACE: Final = "is a public example. Replace it"


def url_secrets(url: str) -> tuple[str, ...]:
    """Return the parts of a URL that may be secret: its password, and its user name, which may be a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    return tuple(unquote(part) for part in (parts.username, parts.password) if part)


def is_quoted(secret: str) -> bool:
    """Return whether a secret begins or ends with a quote, for example after copying."""
    return not {secret[:1], secret[-1:]}.isdisjoint({'"', "'", "`"})


def is_published(secret: str) -> bool:
    """Return whether a secret is an example of this repository."""
    return secret in PUBLISHED
