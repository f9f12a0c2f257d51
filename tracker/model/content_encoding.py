"""Decoding of compressed bodies (RFC 9110, section 8.4) within a size limit."""

import zlib
from typing import Final

from tracker.errors import TooLarge, WrongMediaType

# The `wbits` values of zlib for each format. Some senders of "deflate" leave out the zlib wrapper.
GZIP: Final = 31
ZLIB: Final = 15
BARE: Final = -15
WRAPPERS: Final = {"gzip": (GZIP,), "x-gzip": (GZIP,), "deflate": (ZLIB, BARE)}
IDENTITY: Final = frozenset({"", "identity"})


def is_encoded(encoding: str) -> bool:
    """Return whether a body with this Content-Encoding header must be decoded."""
    return encoding.strip().lower() not in IDENTITY


def decode(body: bytes, encoding: str, *, limit: int) -> bytes:
    """Return the decompressed body of at most ``limit`` bytes.

    Raises: WrongMediaType, if the encoding is not gzip or deflate, or the bytes do not match it; TooLarge.
    """
    name = encoding.strip().lower()
    wrappers = WRAPPERS.get(name)
    if wrappers is None:
        raise WrongMediaType("the Content-Encoding is not supported. Send the body uncompressed, or as gzip or deflate")
    for wrapper in wrappers:
        try:
            return _inflate(body, wrapper, limit)
        except (zlib.error, EOFError):
            continue
    raise WrongMediaType(f"the body does not match its Content-Encoding; send it uncompressed, or as valid {name}")


def _inflate(body: bytes, wrapper: int, limit: int) -> bytes:
    """Decode all members of a stream. Raises: zlib.error, EOFError if the last member is incomplete, TooLarge."""
    whole = bytearray()
    left = body
    while left or not whole:
        stream = zlib.decompressobj(wrapper)
        whole += stream.decompress(left, limit + 1 - len(whole))
        if len(whole) > limit:
            raise TooLarge(f"the body is longer than {limit} bytes once it is decoded")
        if not stream.eof:
            raise EOFError
        if not stream.unused_data:
            break
        left = stream.unused_data
    return bytes(whole)
