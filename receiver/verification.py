"""Decides whether a delivery is what its signature says, and what it is worth. Pure: the time is an argument.

The address has already been proven by its token (``tracker.callback_url``). A verifier looks at headers and raw bytes
and gives a ``Proof`` or raises ``NotProven``, never anything else. ``judge`` is the table of trust.
"""

import base64
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

from receiver.errors import NotProven, Reason
from tracker.bounds import ID_LENGTH
from tracker.models import Flaw, Trust

TOLERANCE: Final = timedelta(minutes=5)
# A rotation sends two. The bound keeps a header full of garbage from costing anything.
MOST_SIGNATURES: Final = 16
STANDARD_HEADERS: Final = (b"webhook-signature", b"webhook-id", b"webhook-timestamp")
_SECONDS: Final = re.compile(rb"[0-9]{1,12}")
# Without a full stop, so that `id.timestamp.body` can be cut in one way only.
_ID: Final = re.compile(rb"[!-\-/-~]{1,%d}" % ID_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request as it came: header names and values as raw bytes (names in any case), the body untouched."""

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Give a header's value, or None. Raises NotProven where it came twice: which one was signed is a guess."""
        (value,) = self.headers_named(name)
        return value

    def headers_named(self, *names: bytes) -> list[bytes | None]:
        """Give the values of several headers, as ``header`` does."""
        found: dict[bytes, bytes] = {}
        for key, value in self.headers:
            name = key.lower()
            if name in names:
                if name in found:
                    raise NotProven(Reason.WRONG, f"several {name.decode()} headers")
                found[name] = value.strip()
        return [found.get(name) for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a valid signature covers besides the body; ``webhook_id`` is None where the scheme has none."""

    webhook_id: str | None = None


class Verifier(Protocol):
    """One signature scheme with its secrets. The shared suite in tests/conformance must pass."""

    def verify(self, delivery: Delivery, *, now: datetime) -> Proof:
        """Prove a delivery with any of the secrets, or raise NotProven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardWebhooks:
    """The scheme of https://www.standardwebhooks.com: several signatures per delivery, several keys here.

    Signed is ``{webhook-id}.{webhook-timestamp}.{raw body}`` with HMAC-SHA256; the header lists ``v1,{Base64}``
    separated by spaces, one for each of the sender's live secrets.
    """

    keys: Sequence[bytes] = field(repr=False)
    tolerance: timedelta = TOLERANCE

    def verify(self, delivery: Delivery, *, now: datetime) -> Proof:
        listed, webhook_id, seconds = delivery.headers_named(*STANDARD_HEADERS)
        if not listed:
            raise NotProven(Reason.MISSING, "no webhook-signature header")
        if webhook_id is None or seconds is None or not _ID.fullmatch(webhook_id) or not _SECONDS.fullmatch(seconds):
            raise NotProven(Reason.WRONG, "webhook-id or webhook-timestamp is missing or unusable")
        first = listed.split(maxsplit=MOST_SIGNATURES)[:MOST_SIGNATURES]
        signatures = [each.removeprefix(b"v1,") for each in first if each.startswith(b"v1,")]
        signed = b".".join((webhook_id, seconds, delivery.body))
        expected = [base64.b64encode(hmac.digest(key, signed, "sha256")) for key in self.keys]
        if not _any_equal(expected, signatures):
            raise NotProven(Reason.WRONG, "no listed signature is valid")
        # Only now: "stale" then means a true signature that is replayed, or a clock that is off, never a forgery.
        if abs(now.timestamp() - int(seconds)) > self.tolerance.total_seconds():
            raise NotProven(Reason.STALE, "the signature's time is too far from ours")
        return Proof(webhook_id=webhook_id.decode("ascii"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderHmac:
    """The older convention: one header holds the hex HMAC-SHA256 of the raw body after ``prefix``.

    It has no time and no id, so a replay is not seen here; the ids in the body and the dedupe key absorb it.
    ``header`` is lower case.
    """

    header: bytes
    keys: Sequence[bytes] = field(repr=False)
    prefix: bytes = b"sha256="

    def verify(self, delivery: Delivery, *, now: datetime) -> Proof:
        del now  # the scheme has no time
        given = delivery.header(self.header)
        if not given:
            raise NotProven(Reason.MISSING, f"no {self.header.decode()} header")
        if not given.startswith(self.prefix):
            raise NotProven(Reason.WRONG, "the signature has another form")
        expected = [hmac.digest(key, delivery.body, "sha256").hex().encode() for key in self.keys]
        if not _any_equal(expected, [given.removeprefix(self.prefix).lower()]):
            raise NotProven(Reason.WRONG, "the signature is not valid")
        return Proof()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a delivery is worth; ``refusal`` is raised to the sender once the delivery is kept as a hint."""

    trust: Trust
    flaw: Flaw | None = None
    webhook_id: str | None = None
    refusal: NotProven | None = None


def judge(verifier: Verifier | None, delivery: Delivery, *, standing: bool, now: datetime) -> Judgement:
    """Give the trust of a delivery whose token is good. ``verifier`` is None where no secret is configured.

    Then a task's own address is proof enough of its task, and a signature that came along adds nothing; a standing
    address names no task and proves nothing. A missing signature is kept as a hint and answered 2xx, since a refusal
    would lose results: the provider's legacy dialect may not sign at all (nobody has published an observation).
    """
    if verifier is None:
        return Judgement(trust=Trust.HINT, flaw=Flaw.STANDING) if standing else Judgement(trust=Trust.TOKEN)
    try:
        proof = verifier.verify(delivery, now=now)
    except NotProven as refusal:
        if refusal.reason is Reason.MISSING:
            return Judgement(trust=Trust.HINT, flaw=Flaw.UNSIGNED)
        return Judgement(trust=Trust.HINT, flaw=Flaw.BAD_SIGNATURE, refusal=refusal)
    return Judgement(trust=Trust.SIGNED, webhook_id=proof.webhook_id)


def _any_equal(expected: Sequence[bytes], given: Sequence[bytes]) -> bool:
    """Compare every pair, each in constant time, without stopping at the first that matches."""
    return True in [hmac.compare_digest(mine, theirs) for mine in expected for theirs in given]
