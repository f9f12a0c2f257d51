"""Test that a verifier accepts only signed bytes and raises only its own error."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from receiver.errors import NotProven
from receiver.verification import CallbackRequest, Proof, StandardWebhooks, judge
from tracker.model.task import Flaw, Trust
from tracker.model.webhook_keys import webhook_key

KEYS = (b"a made-up key of 32 bytes, first", b"a made-up key of 32 bytes, other")
VERIFIER = StandardWebhooks(keys=KEYS)
NAMES = [b"webhook-id", b"webhook-timestamp", b"webhook-signature", b"Webhook-Signature", b"host"]
NOW = datetime(2026, 11, 20, tzinfo=UTC)
SECONDS = str(int(NOW.timestamp())).encode()

moments = st.datetimes(timezones=st.just(UTC))
values = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"v1,", b"v1,AAAA v1,", b"sha256=", SECONDS, b"9" * 400, b"-1", b"nan", b"v1 v1,,"]),
    st.lists(st.sampled_from([b"v1,", b"v1a,", b" ", b"=", b"AAAA", b"\xff", b"sha256="]), max_size=30).map(b"".join),
)
headers = st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), st.binary(max_size=30)), values), max_size=8)
whole_headers = st.fixed_dictionaries(dict.fromkeys(NAMES[:3], values)).map(lambda each: list(each.items()))
webhook_ids = st.text(alphabet=[chr(code) for code in range(33, 127) if chr(code) != "."], min_size=1, max_size=200)


def signed(webhook_id: bytes, body: bytes, key: bytes) -> list[tuple[bytes, bytes]]:
    digest = hmac.new(key, b".".join([webhook_id, SECONDS, body]), hashlib.sha256).digest()
    return [
        (b"webhook-id", webhook_id),
        (b"webhook-timestamp", SECONDS),
        (b"webhook-signature", b"v1," + base64.b64encode(digest)),
    ]


@given(headers=st.one_of(headers, whole_headers), body=st.binary(max_size=100), now=moments)
@example(
    headers=[(b"webhook-signature", b"v1,\xff"), (b"webhook-id", b"1"), (b"webhook-timestamp", SECONDS)],
    body=b"",
    now=NOW,
)
def test_verifier_raises_only_its_own_error(headers: list[tuple[bytes, bytes]], body: bytes, now: datetime) -> None:
    try:
        proof: Proof | None = VERIFIER.verify(CallbackRequest(headers=headers, body=body), now=now)
    except NotProven:
        proof = None
    assert proof is None


@given(headers=st.one_of(headers, whole_headers), body=st.binary(max_size=100), now=moments, shared_url=st.booleans())
def test_unverified_bytes_stay_unverified_with_a_secret(
    headers: list[tuple[bytes, bytes]], body: bytes, now: datetime, *, shared_url: bool
) -> None:
    judgement = judge(VERIFIER, CallbackRequest(headers=headers, body=body), shared_url=shared_url, now=now)
    assert judgement.trust is Trust.UNVERIFIED
    assert judgement.webhook_id is None
    assert (judgement.flaw in {Flaw.BAD_SIGNATURE, Flaw.STALE_SIGNATURE}) == (judgement.refusal is not None)


@given(webhook_id=webhook_ids, body=st.binary(max_size=300), key=st.sampled_from(KEYS))
def test_signature_of_a_live_key_is_verified(webhook_id: str, body: bytes, key: bytes) -> None:
    delivery = CallbackRequest(headers=signed(webhook_id.encode(), body, key), body=body)
    assert VERIFIER.verify(delivery, now=NOW) == Proof(webhook_id=webhook_id)


@given(webhook_id=webhook_ids, body=st.binary(min_size=1, max_size=100), data=st.data())
def test_one_changed_bit_is_refused(webhook_id: str, body: bytes, data: st.DataObject) -> None:
    parts = [*(value for _, value in signed(webhook_id.encode(), body, KEYS[0])), body]
    place = data.draw(st.integers(0, len(parts) - 1))
    where = data.draw(st.integers(0, len(parts[place]) - 1))
    changed = bytearray(parts[place])
    changed[where] ^= 1 << data.draw(st.integers(0, 7))
    parts[place] = bytes(changed)
    delivery = CallbackRequest(headers=list(zip(NAMES[:3], parts[:3], strict=True)), body=parts[3])
    assert judge(VERIFIER, delivery, shared_url=False, now=NOW).trust is Trust.UNVERIFIED


@given(secret=st.one_of(st.text(max_size=60), st.text(max_size=60).map("whsec_{}".format)))
def test_secret_is_parsed_or_raises_value_error(secret: str) -> None:
    refusal: Exception | None = None
    key = b""
    try:
        key = webhook_key(secret)
    except ValueError as error:
        refusal = error
    assert type(refusal) is ValueError or len(key) >= 16
