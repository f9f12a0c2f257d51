"""Results: small PNG pictures that are made from their names, and their signed URLs.

Documented: a result is cleared after 30 days and its URL is signed. Live: one URL expired 30 days after `updated_at`.
The form of the URL is chosen.
"""

import hashlib
import hmac
import struct
import zlib

LIFETIME_SECONDS = 30 * 24 * 3600
_SIDE = 16
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB, not interlaced


def png(name: str) -> bytes:
    """Return a picture of 16 x 16 pixels. The same name gives the same picture."""
    one, other = (hashlib.sha256(f"{side}/{name}".encode()).digest()[:3] for side in ("one", "other"))
    rows = b"".join(
        b"\0" + b"".join(other if (row // 4 + column // 4) % 2 else one for column in range(_SIDE))
        for row in range(_SIDE)
    )
    parts = ((b"IHDR", _HEADER), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(tag, data) for tag, data in parts)


def _chunk(tag: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def picture_url(origin: str, key: bytes, name: str, finished_at: int) -> str:
    """Return the signed URL of a picture. `finished_at` is in milliseconds."""
    expires = finished_at // 1000 + LIFETIME_SECONDS
    return f"{origin}/results/{name}.png?x-expires={expires}&x-signature={signature(key, name, str(expires))}"


def signature(key: bytes, name: str, expires: str) -> str:
    return hmac.new(key, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()


def is_valid(key: bytes, name: str, expires: str, given: str, now: int) -> bool:
    """Return whether a URL has a valid signature and has not expired. `now` is in seconds."""
    signed = hmac.compare_digest(signature(key, name, expires).encode(), given.encode())
    return signed and expires.isdigit() and int(expires) > now
