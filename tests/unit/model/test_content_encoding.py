"""Tests of compressed bodies: callbacks and the API decode them within a limit or answer 415."""

import base64
import gzip
import hmac
import zlib
from datetime import timedelta

import pytest

from tests.support.recording_tracker import BODY, NOW, PATH, SECRET, SIGNING, WritingTracker, only, post, signed
from tests.unit.api.test_api_body import chunk, holding, sent
from tracker.api.http.body import read_body
from tracker.errors import TooLarge, WrongMediaType
from tracker.model.content_encoding import decode
from tracker.model.task import Status, Trust

LATER = timedelta(seconds=30)
# A fixed time makes every test worker collect the same tests.
ZIPPED = gzip.compress(BODY, mtime=0)
BARE = zlib.compressobj(wbits=-15)
BARE_BODY = BARE.compress(BODY) + BARE.flush()


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("gzip", ZIPPED),
        (" GZip ", gzip.compress(BODY[:9], mtime=0) + gzip.compress(BODY[9:], mtime=0)),
        ("x-gzip", ZIPPED),
        ("deflate", zlib.compress(BODY)),
        ("deflate", BARE_BODY),
    ],
)
def test_compressed_body_is_decoded(encoding: str, raw: bytes) -> None:
    assert decode(raw, encoding, limit=len(BODY)) == BODY


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("br", BODY),
        ("gzip, gzip", gzip.compress(ZIPPED, mtime=0)),
        ("gzip", BODY),
        ("gzip", ZIPPED[:-9]),
        ("gzip", ZIPPED + b"more"),
        ("deflate", b""),
    ],
)
def test_undecodable_body_is_wrong_media_type(encoding: str, raw: bytes) -> None:
    with pytest.raises(WrongMediaType):
        decode(raw, encoding, limit=1_000_000)


@pytest.mark.parametrize("members", [1, 50])
def test_decoded_body_beyond_limit_is_refused(members: int) -> None:
    bomb = gzip.compress(b"0" * (10_000_000 // members)) * members

    with pytest.raises(TooLarge):
        decode(bomb, "gzip", limit=1_000_000)


def by_hand(raw: bytes) -> dict[str, str]:
    """Sign bytes that are not text. The signing library accepts only text."""
    covered = b".".join((b"42", str(int(NOW.timestamp())).encode(), raw))
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    mac = base64.b64encode(hmac.digest(key, covered, "sha256")).decode()
    return signed() | {"webhook-signature": f"v1,{mac}"}


@pytest.mark.parametrize("headers", [signed(), by_hand(ZIPPED)], ids=["before", "after"])
async def test_compressed_callback_signature_is_verified(headers: dict[str, str]) -> None:
    """A signature may cover the plain or the compressed bytes. The specification leaves this open."""
    tracker = WritingTracker()
    encoded = headers | {"content-encoding": "gzip"}

    reply = await post(tracker, SIGNING, path=PATH, body=ZIPPED, headers=encoded)

    observation = only(tracker).observation
    assert reply.status_code == 200
    assert (observation.trust, observation.report.status, observation.body) == (Trust.SIGNED, Status.SUCCEEDED, BODY)


async def test_callback_with_unknown_encoding_is_refused() -> None:
    tracker = WritingTracker()

    reply = await post(tracker, SIGNING, body=BODY, headers={"content-encoding": "br"})

    assert (reply.status_code, tracker.given) == (415, [])


async def test_compressed_api_body_is_limited_once_decoded() -> None:
    plain = b'{"prompt": "' + b"a" * 1_000 + b'"}'

    async def read(limit: int) -> bytes:
        request = sent([chunk(gzip.compress(plain), more=False)], content_encoding="gzip")
        return await read_body(request, holding(), limit=limit, within=LATER)

    assert await read(len(plain)) == plain
    with pytest.raises(TooLarge):
        await read(len(plain) - 1)
