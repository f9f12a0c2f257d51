"""The prepared key makes the MAC that the standard library makes."""

import hmac

from hypothesis import example, given
from hypothesis import strategies as st

from tracker.keyed import Keyed


@given(key=st.binary(max_size=150), begun=st.binary(max_size=150), text=st.binary(max_size=150))
@example(key=b"k" * 64, begun=b"", text=b"")
@example(key=b"k" * 65, begun=b"b", text=b"t" * 5000)
def test_it_is_hmac_sha256_of_what_is_begun_and_the_text(key: bytes, begun: bytes, text: bytes) -> None:
    keyed = Keyed(key, begun)
    assert keyed.digest(text) == hmac.digest(key, begun + text, "sha256")
    assert keyed.digest(text) == keyed.digest(text), "a text changed the key"
