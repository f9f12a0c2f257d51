"""Results: small real files, and their signed URLs.

Documented: a result is cleared after 30 days and its URL is signed. Live: one URL expired 30 days after `updated_at`.
The form of the URL is chosen.

A picture and a WAV sound are made from their names. `media/clip.mp4` is one second of FFmpeg's test source (64 x 64
pixels, H.264), and `media/sound.mp3` is 0.3 s of its sine source (440 Hz).
"""

import hashlib
import hmac
import io
import math
import struct
import wave
import zlib
from importlib.resources import files

LIFETIME_SECONDS = 30 * 24 * 3600
MEDIA_TYPES = {"png": "image/png", "mp4": "video/mp4", "mp3": "audio/mpeg", "wav": "audio/wav"}
MEDIA_TYPES |= {"srt": "application/x-subrip", "ass": "text/x-ssa"}
_SRT = "1\n00:00:00,000 --> 00:00:01,000\nHello\n"
_ASS = "[Script Info]\n\n[Events]\nFormat: Start, End, Text\nDialogue: 0:00:00.00,0:00:01.00,Hello\n"
_SIDE = 16
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB, not interlaced
_SAMPLES, _RATE, _LOUD = 2_000, 8_000, 8_000


def content(name: str, suffix: str) -> bytes:
    """Return a file of one of `MEDIA_TYPES`. The same name gives the same file."""
    if suffix == "png":
        return png(name)
    if suffix == "wav":
        return wav(name)
    if suffix in {"srt", "ass"}:
        return (_SRT if suffix == "srt" else _ASS).encode()
    return (files("homing.sandbox") / "media" / {"mp4": "clip.mp4", "mp3": "sound.mp3"}[suffix]).read_bytes()


def png(name: str) -> bytes:
    """Return a picture of 16 x 16 pixels."""
    one, other = (hashlib.sha256(f"{side}/{name}".encode()).digest()[:3] for side in ("one", "other"))
    rows = b"".join(
        b"\0" + b"".join(other if (row // 4 + column // 4) % 2 else one for column in range(_SIDE))
        for row in range(_SIDE)
    )
    parts = ((b"IHDR", _HEADER), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(tag, data) for tag, data in parts)


def wav(name: str) -> bytes:
    """Return a tone of a quarter of a second."""
    hertz = 200 + hashlib.sha256(name.encode()).digest()[0] * 2
    tone = (int(_LOUD * math.sin(2 * math.pi * hertz * at / _RATE)) for at in range(_SAMPLES))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_RATE)
        sound.writeframes(struct.pack(f"<{_SAMPLES}h", *tone))
    return file.getvalue()


def _chunk(tag: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def result_url(origin: str, key: bytes, name: str, finished_at: int) -> str:
    """Return the signed URL of a file, such as `12-0.png`. `finished_at` is in milliseconds."""
    expires = finished_at // 1000 + LIFETIME_SECONDS
    return f"{origin}/results/{name}?x-expires={expires}&x-signature={signature(key, name, str(expires))}"


def signature(key: bytes, name: str, expires: str) -> str:
    return hmac.new(key, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()


def is_valid(key: bytes, name: str, expires: str, given: str, now: int) -> bool:
    """Return whether a URL has a valid signature and has not expired. `now` is in seconds."""
    signed = hmac.compare_digest(signature(key, name, expires).encode(), given.encode())
    return signed and expires.isdigit() and int(expires) > now
