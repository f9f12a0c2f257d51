"""HMAC-SHA256 under a key that is prepared once. Pure."""

import hashlib
from typing import Final

_BLOCK: Final = 64


class Keyed:
    """RFC 2104, ``H(key ^ opad, H(key ^ ipad, text))``: both keyed blocks are hashed once and copied for each text.

    ``hmac`` gives the same, as a test sees to, but takes two or three times as long, and every delivery needs two MACs.
    ``begun`` is what all the texts begin with.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, begun: bytes = b"") -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + begun)
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, text: bytes) -> bytes:
        """Give the MAC of ``begun`` and ``text``."""
        inner = self._inner.copy()
        inner.update(text)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()
