"""Signature verification: the published vector, the reference library, trust levels and secret formats."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.errors import NotProven, Reason
from receiver.providers import kling
from receiver.verification import CallbackRequest, Judgement, Proof, StandardWebhooks, judge
from tracker.errors import ClientError
from tracker.model.task import Flaw, Trust
from tracker.model.webhook_keys import webhook_key

# Published on the provider's "Callback Protocol" page, https://kling.ai/document-api.
SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
SECONDS = 1781080794
BODY = b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
SIGNATURE = b"v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="
NOW = datetime.fromtimestamp(SECONDS, UTC) + timedelta(seconds=3)
HEADERS = (
    (b"webhook-id", b"9876543210"),
    (b"webhook-timestamp", str(SECONDS).encode()),
    (b"webhook-signature", SIGNATURE),
)
TRUE = CallbackRequest(headers=HEADERS, body=BODY)
UNSIGNED = CallbackRequest(headers=(), body=BODY)
FORGED = CallbackRequest(headers=HEADERS, body=BODY.replace(b"succeeded", b"failed"))
KLING = kling.verifier([SECRET])


def test_published_vector_is_verified() -> None:
    assert KLING.verify(TRUE, now=NOW) == Proof(webhook_id="9876543210")


def test_published_vector_is_stale_after_five_minutes() -> None:
    assert KLING.verify(TRUE, now=datetime.fromtimestamp(SECONDS + 300, UTC)) == Proof(webhook_id="9876543210")
    with pytest.raises(NotProven) as refusal:
        KLING.verify(TRUE, now=datetime.fromtimestamp(SECONDS + 301, UTC))
    assert refusal.value.reason is Reason.STALE


@pytest.mark.parametrize("body", ["", "{}", BODY.decode(), '{"message":"ünï☃\\u0000"}'])
def test_signature_of_reference_library_is_verified(body: str) -> None:
    signature = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(SECONDS, UTC), body).encode()
    headers = ((b"webhook-id", b"msg_1"), HEADERS[1], (b"webhook-signature", signature))
    assert KLING.verify(CallbackRequest(headers=headers, body=body.encode()), now=NOW).webhook_id == "msg_1"


@pytest.mark.parametrize(
    "signatures",
    ["{good}", "v2,AAAA {good}", "{bad} {good}", "{bad}", "v2,AAAA", "{good} {bad}", "{tampered}", "v1,", "v1,AAAA"],
)
def test_result_equals_that_of_reference_library(signatures: str) -> None:
    now = datetime.now(UTC)
    good = Webhook(SECRET).sign("msg_1", now, BODY.decode())
    bad = Webhook(b"some other key").sign("msg_1", now, BODY.decode())
    listed = signatures.format(good=good, bad=bad, tampered=good.replace("v1,", "v1,AAAA"))
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": listed}

    def theirs() -> bool:
        try:
            Webhook(SECRET).verify(BODY, headers)
        except WebhookVerificationError:
            return False
        return True

    def ours() -> bool:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        try:
            KLING.verify(CallbackRequest(headers=raw, body=BODY), now=now)
        except NotProven:
            return False
        return True

    assert ours() == theirs()
    assert ours() == ("{good}" in signatures)


def test_failed_verification_is_error_of_caller() -> None:
    assert issubclass(NotProven, ClientError)
    assert NotProven.status == 401


@pytest.mark.parametrize("shared_url", [False, True])
def test_valid_signature_has_signed_trust_and_id(*, shared_url: bool) -> None:
    assert judge(KLING, TRUE, shared_url=shared_url, now=NOW) == Judgement(trust=Trust.SIGNED, webhook_id="9876543210")


@pytest.mark.parametrize("shared_url", [False, True])
def test_missing_signature_is_unverified_but_accepted(*, shared_url: bool) -> None:
    expected = Judgement(trust=Trust.UNVERIFIED, flaw=Flaw.UNSIGNED)
    assert judge(KLING, UNSIGNED, shared_url=shared_url, now=NOW) == expected


@pytest.mark.parametrize("shared_url", [False, True])
@pytest.mark.parametrize(
    ("callback", "now", "reason"),
    [
        (FORGED, NOW, Reason.WRONG),
        (TRUE, NOW + timedelta(hours=1), Reason.STALE),
        (TRUE, NOW - timedelta(hours=1), Reason.STALE),
    ],
)
def test_invalid_signature_is_unverified_and_refused(
    callback: CallbackRequest, now: datetime, reason: Reason, *, shared_url: bool
) -> None:
    judgement = judge(KLING, callback, shared_url=shared_url, now=now)
    flaw = Flaw.STALE_SIGNATURE if reason is Reason.STALE else Flaw.BAD_SIGNATURE
    assert (judgement.trust, judgement.flaw, judgement.webhook_id) == (Trust.UNVERIFIED, flaw, None)
    assert judgement.refusal is not None
    assert judgement.refusal.reason is reason


@pytest.mark.parametrize("callback", [TRUE, UNSIGNED, FORGED])
def test_task_url_without_secret_has_token_trust(callback: CallbackRequest) -> None:
    assert judge(None, callback, shared_url=False, now=NOW) == Judgement(trust=Trust.TOKEN)


@pytest.mark.parametrize("callback", [TRUE, UNSIGNED, FORGED])
def test_shared_url_without_secret_is_unverified(callback: CallbackRequest) -> None:
    assert judge(None, callback, shared_url=True, now=NOW) == Judgement(trust=Trust.UNVERIFIED, flaw=Flaw.SHARED_URL)


def test_secret_is_base64_with_or_without_padding() -> None:
    key = b"testsecrettestsecrettestsecret12"
    assert webhook_key(SECRET) == key
    assert webhook_key(SECRET.rstrip("=")) == key
    assert StandardWebhooks(keys=[key]).verify(TRUE, now=NOW).webhook_id == "9876543210"


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        SECRET.removeprefix("whsec_"),
        SECRET.upper(),
        "whsec_not base64!",
        "whsec_ünïcode",
        "whsec_c2hvcnQ=",
        "whsec_-_" + "A" * 40,
        f" {SECRET}",
    ],
)
def test_unusable_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="Copy the whole secret") as refusal:
        webhook_key(secret)
    unprefixed = secret.removeprefix("whsec_").strip()
    assert not unprefixed or unprefixed not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_unusable_secret_is_named_by_position() -> None:
    with pytest.raises(ValueError, match=r"^webhook secret 2: not valid"):
        kling.verifier([SECRET, base64.b64encode(b"made up, but without its prefix").decode()])
