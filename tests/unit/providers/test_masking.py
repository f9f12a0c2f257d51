"""Tests of excerpts of external texts: short, printable, and without credentials."""

import pytest

from tracker.providers.base import ApiKey, Credential, KeyPair
from tracker.providers.masking import EXCERPT_SHOWN, excerpt


@pytest.mark.parametrize(
    ("text", "credential", "shown"),
    [
        ("no key sk-made/up here", ApiKey(key="sk-made/up"), "no key *** here"),
        ("?key=sk-made%2Fup", ApiKey(key="sk-made/up"), "?key=***"),
        ("AK made-up-ak SK made-up-sk", KeyPair(access_key="made-up-ak", secret_key="made-up-sk"), "AK *** SK ***"),
        ("bad token eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln!", None, "bad token ***!"),
        ("Authorization: Bearer abc.def failed", None, "Authorization: Bearer *** failed"),
        ("<html>\r\n\x1b[31m red\u202e</html>", None, "<html> [31m red </html>"),
        ("", None, ""),
    ],
)
def test_excerpt_masks_credentials(text: str, credential: Credential, shown: str) -> None:
    assert excerpt(text, credential) == shown


def test_long_excerpt_is_cut() -> None:
    shown = excerpt("x" * (EXCERPT_SHOWN - 4) + "sk-made-up" + "y" * 999, ApiKey(key="sk-made-up"))

    assert len(shown) == EXCERPT_SHOWN
    assert "sk-" not in shown
