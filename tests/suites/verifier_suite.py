"""Shared suite for every verifier: a subclass defines how the sender signs, and inherits the tests.

``VerifierSuite`` is for all, ``TimedVerifierSuite`` for schemes whose signature carries a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from receiver.errors import NotProven, Reason
from receiver.verification import CallbackRequest, Verifier

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OLD, NEW, STRANGE = (
    b"an old key of thirty-two letters",
    b"a new key of thirty-two letters!",
    b"a key that an attacker made up..",
)
BODY = b'{"id":"1234567890","status":"succeeded","message":"made-up body"}'

Headers = Sequence[tuple[bytes, bytes]]

GARBAGE = [
    b"garbage",
    b",",
    b" , , ",
    b"v1",
    b"v1,",
    b"v1,====",
    b"v2,AAAA",
    b"v1,AAAA v1,BBBB",
    b"sha256=",
    b"sha256=zz",
    b"\x00",
    b"\xff\xfe\xfa",
    "v1,ünïcode☃".encode(),
    b"v1," + b"A" * 60_000,
    b"v1,A " * 12_000,
]


class VerifierSuite(ABC):
    """The tests; ``signature_header`` is the lower-case name of the header that holds the signature."""

    signature_header: ClassVar[bytes]

    @abstractmethod
    def verifier(self, *keys: bytes) -> Verifier:
        """Make the verifier with these live keys."""

    @abstractmethod
    def sign(self, body: bytes, key: bytes, *, at: datetime = NOW) -> Headers:
        """Return the headers that a sender with ``key`` adds to ``body``."""

    def replaced(self, value: bytes) -> Headers:
        """Return a good sender's headers with another signature value."""
        return [(name, value if name == self.signature_header else old) for name, old in self.sign(BODY, NEW)]

    def refused(self, headers: Headers, body: bytes = BODY, *keys: bytes, now: datetime = NOW) -> NotProven:
        with pytest.raises(NotProven) as refusal:
            self.verifier(*(keys or (NEW,))).verify(CallbackRequest(headers=headers, body=body), now=now)
        return refusal.value

    def prove(self, headers: Headers, body: bytes = BODY, *keys: bytes, now: datetime = NOW) -> None:
        self.verifier(*(keys or (NEW,))).verify(CallbackRequest(headers=headers, body=body), now=now)

    def test_valid_signature_verifies(self) -> None:
        self.prove(self.sign(BODY, NEW))

    @pytest.mark.parametrize("body", [b"", b"\xff\xfe not UTF-8 \x00", b'{ "spaces" : 1 }\r\n', b"x" * 1_000_000])
    def test_signature_covers_the_raw_bytes(self, body: bytes) -> None:
        self.prove(self.sign(body, NEW), body)

    @pytest.mark.parametrize("key", [OLD, NEW])
    def test_rotation_accepts_every_live_key(self, key: bytes) -> None:
        self.prove(self.sign(BODY, key), BODY, NEW, OLD)

    def test_rotation_end_refuses_the_old_key(self) -> None:
        assert self.refused(self.sign(BODY, OLD), BODY, NEW).reason is Reason.WRONG

    def test_no_key_verifies_nothing(self) -> None:
        with pytest.raises(NotProven):
            self.verifier().verify(CallbackRequest(headers=self.sign(BODY, NEW), body=BODY), now=NOW)

    def test_header_names_ignore_case(self) -> None:
        self.prove([(name.title(), value) for name, value in self.sign(BODY, NEW)])
        self.prove([(name.upper(), value) for name, value in self.sign(BODY, NEW)])

    def test_other_headers_are_ignored(self) -> None:
        self.prove([(b"host", b"\xff"), (b"host", b"\xfe"), *self.sign(BODY, NEW), (b"", b"")])

    def test_signature_header_absent_is_missing(self) -> None:
        assert self.refused([]).reason is Reason.MISSING
        assert self.refused([(b"content-type", b"application/json")]).reason is Reason.MISSING

    @pytest.mark.parametrize("value", [b"", b"  "])
    def test_signature_empty_is_missing(self, value: bytes) -> None:
        assert self.refused(self.replaced(value)).reason is Reason.MISSING

    def test_foreign_signature_is_wrong(self) -> None:
        assert self.refused(self.sign(BODY, STRANGE), BODY, NEW, OLD).reason is Reason.WRONG

    @pytest.mark.parametrize("body", [b"", BODY[:-1], BODY + b" ", BODY.replace(b"succeeded", b"failed   ")])
    def test_changed_body_is_wrong(self, body: bytes) -> None:
        assert self.refused(self.sign(BODY, NEW), body).reason is Reason.WRONG

    def test_signature_of_another_callback_is_wrong(self) -> None:
        assert self.refused(self.sign(b"{}", NEW)).reason is Reason.WRONG

    @pytest.mark.parametrize("value", GARBAGE)
    def test_garbage_signature_is_wrong(self, value: bytes) -> None:
        assert self.refused(self.replaced(value)).reason is Reason.WRONG

    def test_cut_or_lengthened_signature_is_wrong(self) -> None:
        true = dict(self.sign(BODY, NEW))[self.signature_header]
        assert self.refused(self.replaced(true[:-1])).reason is Reason.WRONG
        assert self.refused(self.replaced(true + b"A")).reason is Reason.WRONG

    @pytest.mark.parametrize("value", GARBAGE)
    def test_garbage_in_signed_header_never_verifies(self, value: bytes) -> None:
        headers = self.sign(BODY, NEW)
        for place in range(len(headers)):
            self.refused([*headers[:place], (headers[place][0], value), *headers[place + 1 :]])

    def test_repeated_signed_header_is_wrong(self) -> None:
        headers = self.sign(BODY, NEW)
        for doubled in headers:
            assert self.refused([*headers, doubled]).reason is Reason.WRONG

    @pytest.mark.parametrize("value", [b"garbage", b"\xff", b"v1,AAAA", b""])
    def test_error_hides_key_signature_and_body(self, value: bytes) -> None:
        output = repr(self.refused(self.replaced(value))) + str(self.refused(self.sign(BODY, STRANGE)))
        for secret in (NEW.decode(), "made-up body", dict(self.sign(BODY, STRANGE))[self.signature_header].decode()):
            assert secret not in output

    def test_verifier_does_not_show_its_keys(self) -> None:
        assert NEW.decode() not in repr(self.verifier(NEW))


class TimedVerifierSuite(VerifierSuite):
    """For schemes whose signature carries a time: ±5 minutes, in both directions."""

    TOLERANCE = timedelta(minutes=5)

    @pytest.mark.parametrize("off", [-TOLERANCE, -SECOND, SECOND, TOLERANCE])
    def test_signature_within_tolerance_verifies(self, off: timedelta) -> None:
        self.prove(self.sign(BODY, NEW, at=NOW + off))

    @pytest.mark.parametrize("off", [-timedelta(days=365), -TOLERANCE - SECOND, TOLERANCE + SECOND, timedelta(days=9)])
    def test_signature_beyond_tolerance_is_stale(self, off: timedelta) -> None:
        assert self.refused(self.sign(BODY, NEW, at=NOW + off)).reason is Reason.STALE

    def test_old_forgery_is_wrong_and_not_stale(self) -> None:
        assert self.refused(self.sign(BODY, STRANGE, at=NOW - timedelta(days=1))).reason is Reason.WRONG

    def test_fresh_time_on_old_signature_is_wrong(self) -> None:
        old, fresh = self.sign(BODY, NEW, at=NOW - timedelta(hours=1)), self.sign(BODY, NEW)
        renewed = [(name, dict(old if name == self.signature_header else fresh)[name]) for name, _ in fresh]
        assert self.refused(renewed).reason is Reason.WRONG
