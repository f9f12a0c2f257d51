"""Decides whether a callback is what its signature says, and how far it is trusted. Pure: the time is an argument.

The URL was already verified by its token (``rules.callback_tokens``). A verifier looks at headers and raw bytes
and gives a ``Proof`` or raises ``NotProven``, never anything else. ``judge`` is the table of trust.
"""

import hmac
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from receiver.errors import NotProven, Reason
from tracker.model.task import Flaw, Trust
from tracker.model.untrusted import ID_LENGTH
from tracker.model.webhook_keys import written_signature

TOLERANCE: Final = timedelta(minutes=5)
# A rotation sends two. The bound keeps a header full of garbage from costing anything.
MOST_SIGNATURES: Final = 16
_SIGNATURE: Final = b"webhook-signature"
_WEBHOOK_ID: Final = b"webhook-id"
_TIMESTAMP: Final = b"webhook-timestamp"
STANDARD_HEADERS: Final = frozenset({_SIGNATURE, _WEBHOOK_ID, _TIMESTAMP})
_MOST_DIGITS: Final = 12
# What an id may be made of. Without a full stop, so that `id.timestamp.body` can be cut in one way only.
_ID_LETTERS: Final = bytes(range(0x21, 0x7F)).replace(b".", b"")


class CallbackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A callback as it came: header names and values as raw bytes (names in any case), the body untouched."""

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def headers_named(self, names: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the values of those of ``names`` (lower case) that came.

        Raises NotProven where one came twice: which one was signed is a guess.
        """
        found: dict[bytes, bytes] = {}
        for key, value in self.headers:
            name = key.lower()
            if name in names:
                if name in found:
                    raise NotProven(Reason.WRONG, f"several {name.decode()} headers")
                found[name] = value.strip()
        return found


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid signature covers besides the body; ``webhook_id`` is None where the scheme has none."""

    webhook_id: str | None = None


class Verifier(Protocol):
    """One signature scheme with its secrets. The shared suite in tests/suites must pass."""

    def verify(self, request: CallbackRequest, *, now: datetime) -> Proof:
        """Verify a callback with any of the secrets, or raise NotProven."""


class StandardWebhooks:
    """The scheme of https://www.standardwebhooks.com: several signatures per callback, several keys here.

    Signed is ``{webhook-id}.{webhook-timestamp}.{raw body}`` with HMAC-SHA256; the header lists ``v1,{Base64}``
    separated by spaces, one for each of the sender's live secrets.
    """

    def __init__(self, *, keys: Sequence[bytes], tolerance: timedelta = TOLERANCE) -> None:
        self._keys = tuple(keys)
        self._tolerance = tolerance.total_seconds()

    def verify(self, request: CallbackRequest, *, now: datetime) -> Proof:
        found = request.headers_named(STANDARD_HEADERS)
        listed = found.get(_SIGNATURE)
        if not listed:
            raise NotProven(Reason.MISSING, "no webhook-signature header")
        webhook_id, seconds = found.get(_WEBHOOK_ID, b""), found.get(_TIMESTAMP, b"")
        if not 0 < len(webhook_id) <= ID_LENGTH or webhook_id.strip(_ID_LETTERS):
            raise NotProven(Reason.WRONG, "no usable webhook-id header")
        if len(seconds) > _MOST_DIGITS or not seconds.isdigit():
            raise NotProven(Reason.WRONG, "no usable webhook-timestamp header")
        signed = b".".join((webhook_id, seconds, request.body))
        if not _any_equal(self._keys, signed, listed.split(maxsplit=MOST_SIGNATURES)[:MOST_SIGNATURES]):
            raise NotProven(Reason.WRONG, "no listed signature is valid")
        # Only now: "stale" then means a true signature that is replayed, or a clock that is off, never a forgery.
        if abs(now.timestamp() - int(seconds)) > self._tolerance:
            raise NotProven(Reason.STALE, "the signature's time is too far from ours")
        return Proof(webhook_id=webhook_id.decode("ascii"))


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """How far a callback is trusted; ``refusal`` is raised to the sender once the callback is recorded as a hint."""

    trust: Trust
    flaw: Flaw | None = None
    webhook_id: str | None = None
    refusal: NotProven | None = None


def judge(verifier: Verifier | None, request: CallbackRequest, *, shared_url: bool, now: datetime) -> Judgement:
    """Return the trust of a callback whose token is good. ``verifier`` is None where no secret is configured.

    Then a task's own address is proof enough of its task, and a signature that came along adds nothing; a standing
    address names no task and proves nothing. A missing signature is kept as a hint and answered 2xx, since a refusal
    would lose results: the provider's legacy dialect may not sign at all (nobody has published an observation).
    """
    if verifier is None:
        return Judgement(trust=Trust.UNVERIFIED, flaw=Flaw.SHARED_URL) if shared_url else Judgement(trust=Trust.TOKEN)
    try:
        proof = verifier.verify(request, now=now)
    except NotProven as refusal:
        if refusal.reason is Reason.MISSING:
            return Judgement(trust=Trust.UNVERIFIED, flaw=Flaw.UNSIGNED)
        flaw = Flaw.STALE_SIGNATURE if refusal.reason is Reason.STALE else Flaw.BAD_SIGNATURE
        return Judgement(trust=Trust.UNVERIFIED, flaw=flaw, refusal=refusal)
    return Judgement(trust=Trust.SIGNED, webhook_id=proof.webhook_id)


def _any_equal(keys: Sequence[bytes], signed: bytes, given: Sequence[bytes]) -> bool:
    """Return whether one of ``given`` is what one of the keys makes of ``signed``.

    Every pair is compared, each in constant time, without stopping at the first that matches.
    """
    equal = False
    for key in keys:
        mine = written_signature(hmac.digest(key, signed, "sha256"))
        for theirs in given:
            equal |= hmac.compare_digest(mine, theirs)
    return equal
