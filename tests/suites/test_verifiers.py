"""The verifiers that exist, against the suite that each must pass."""

import base64
import hashlib
import hmac
from datetime import datetime

import pytest

from receiver.errors import Reason
from receiver.providers import kling, replicate
from receiver.verification import MOST_SIGNATURES, StandardWebhooks, Verifier
from tests.suites.verifier_suite import (
    BODY,
    NEW,
    NOW,
    OLD,
    STRANGE,
    Headers,
    TimedVerifierSuite,
)

ID = b"1234567890123456789"


def signature(body: bytes, key: bytes, at: datetime = NOW, webhook_id: bytes = ID) -> bytes:
    signed = webhook_id + b"." + str(int(at.timestamp())).encode() + b"." + body
    return b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())


class TestStandardWebhooks(TimedVerifierSuite):
    signature_header = b"webhook-signature"

    def verifier(self, *keys: bytes) -> Verifier:
        return StandardWebhooks(keys=keys)

    def sign(self, body: bytes, key: bytes, *, at: datetime = NOW) -> Headers:
        return self.listed(signature(body, key, at), at=at)

    def listed(self, *signatures: bytes, at: datetime = NOW, webhook_id: bytes = ID) -> Headers:
        return [
            (b"webhook-id", webhook_id),
            (b"webhook-timestamp", str(int(at.timestamp())).encode()),
            (b"webhook-signature", b" ".join(signatures)),
        ]

    @pytest.mark.parametrize("live", [(OLD,), (NEW,), (OLD, NEW), (NEW, OLD)])
    def test_one_valid_signature_of_several_verifies(self, live: tuple[bytes, ...]) -> None:
        listed = self.listed(b"v1a,AAAA", b"garbage", signature(BODY, NEW), signature(BODY, OLD))
        self.prove(listed, BODY, *live)

    def test_several_foreign_signatures_are_wrong(self) -> None:
        listed = self.listed(signature(BODY, STRANGE), signature(b"{}", NEW), signature(BODY, OLD))
        assert self.refused(listed, BODY, NEW).reason is Reason.WRONG

    def test_valid_signature_of_another_version_is_wrong(self) -> None:
        listed = self.listed(signature(BODY, NEW).replace(b"v1,", b"v2,"))
        assert self.refused(listed).reason is Reason.WRONG

    def test_valid_signature_without_version_is_wrong(self) -> None:
        assert self.refused(self.listed(signature(BODY, NEW).removeprefix(b"v1,"))).reason is Reason.WRONG

    def test_long_signature_list_is_checked_to_its_limit(self) -> None:
        garbage = [b"v1,AAAA"] * (MOST_SIGNATURES - 1)
        self.prove(self.listed(*garbage, signature(BODY, NEW)))
        assert self.refused(self.listed(*garbage, b"v1,AAAA", signature(BODY, NEW))).reason is Reason.WRONG

    @pytest.mark.parametrize("name", [b"webhook-id", b"webhook-timestamp"])
    def test_signature_without_id_or_time_is_wrong(self, name: bytes) -> None:
        assert self.refused([each for each in self.sign(BODY, NEW) if each[0] != name]).reason is Reason.WRONG

    @pytest.mark.parametrize("webhook_id", [b"a.b", b"a b", b"\xff", b"a" * 201, b"", b"\x00"])
    def test_ambiguous_signed_id_is_wrong(self, webhook_id: bytes) -> None:
        listed = self.listed(signature(BODY, NEW, webhook_id=webhook_id), webhook_id=webhook_id)
        assert self.refused(listed).reason is Reason.WRONG

    def test_body_part_moved_into_the_id_is_wrong(self) -> None:
        seconds = str(int(NOW.timestamp())).encode()
        inner = b'{"status":"failed"}'
        outer = b"x." + seconds + b"." + inner
        moved = [
            (b"webhook-id", ID + b"." + seconds + b".x"),
            (b"webhook-timestamp", seconds),
            (b"webhook-signature", signature(outer, NEW)),
        ]
        assert self.refused(moved, inner).reason is Reason.WRONG

    @pytest.mark.parametrize("seconds", [b"+1", b"-1", b"1e9", b"1781080794.0", b"1_000", b"9" * 13, "\u0661".encode()])
    def test_signed_time_not_in_plain_seconds_is_wrong(self, seconds: bytes) -> None:
        digest = hmac.new(NEW, ID + b"." + seconds + b"." + BODY, hashlib.sha256).digest()
        headers = [
            (b"webhook-id", ID),
            (b"webhook-timestamp", seconds),
            (b"webhook-signature", b"v1," + base64.b64encode(digest)),
        ]
        assert self.refused(headers).reason is Reason.WRONG


class TestKling(TestStandardWebhooks):
    """The same through the provider's own form of a secret."""

    def verifier(self, *keys: bytes) -> Verifier:
        return kling.verifier([f"whsec_{base64.b64encode(key).decode()}" for key in keys])


class TestReplicate(TestStandardWebhooks):
    """The same for Replicate's secret of an account."""

    def verifier(self, *keys: bytes) -> Verifier:
        return replicate.verifier([f"whsec_{base64.b64encode(key).decode()}" for key in keys])
