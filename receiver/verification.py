"""Signature verification and trust levels of callbacks. Pure: the time is an argument.

The receiver has already verified the URL by its token (``rules.callback_tokens``). A verifier reads the headers and the
raw body. It returns a ``Proof`` or raises ``NotProven``, and no other error. ``judge`` decides the trust level.
"""

import hmac
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol, Self

import msgspec

from receiver.errors import NotProven, Reason
from tracker.model.task import Flaw, Trust
from tracker.model.untrusted import ID_LENGTH
from tracker.model.webhook_keys import webhook_key, written_signature

TOLERANCE: Final = timedelta(minutes=5)
# During a rotation the header has two. The limit makes a header with many signatures cheap.
MOST_SIGNATURES: Final = 16
_SIGNATURE: Final = b"webhook-signature"
_WEBHOOK_ID: Final = b"webhook-id"
_TIMESTAMP: Final = b"webhook-timestamp"
STANDARD_HEADERS: Final = frozenset({_SIGNATURE, _WEBHOOK_ID, _TIMESTAMP})
_MOST_DIGITS: Final = 12
# The characters of an ID. A full stop is not allowed, so that `id.timestamp.body` is unambiguous.
_ID_LETTERS: Final = bytes(range(0x21, 0x7F)).replace(b".", b"")


class CallbackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A callback as received: raw bytes of header names (in any case), header values and body."""

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def headers_named(self, names: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the values of the present headers among ``names`` (lower case).

        Raises NotProven if a header is repeated, because it is unknown which value was signed.
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
    """The verified data besides the body. ``webhook_id`` is None if the scheme has none."""

    webhook_id: str | None = None


class Verifier(Protocol):
    """One signature scheme with its secrets. The shared suite in tests/suites must pass."""

    def verify(self, request: CallbackRequest, *, now: datetime) -> Proof:
        """Verify a callback with any of the secrets, or raise NotProven."""


class StandardWebhooks:
    """The scheme of https://www.standardwebhooks.com, with several keys and several signatures per callback.

    The sender signs ``{webhook-id}.{webhook-timestamp}.{raw body}`` with HMAC-SHA256. The header lists
    ``v1,{Base64}``, separated by spaces, one for each of the sender's live secrets.
    """

    def __init__(self, *, keys: Sequence[bytes], tolerance: timedelta = TOLERANCE) -> None:
        self._keys = tuple(keys)
        self._tolerance = tolerance.total_seconds()

    @classmethod
    def from_secrets(cls, secrets: Sequence[str]) -> Self:
        """Create the verifier from ``whsec_`` secrets. Raises ValueError, which names a bad one by its position."""
        return cls(keys=tuple(_key(place, secret) for place, secret in enumerate(secrets, start=1)))

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
        # Check the time last: "stale" then means a replayed valid signature or a wrong clock, never a forgery.
        if abs(now.timestamp() - int(seconds)) > self._tolerance:
            raise NotProven(Reason.STALE, "the webhook-timestamp is too far from the server's time")
        return Proof(webhook_id=webhook_id.decode("ascii"))


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The trust level of a callback. After recording it as unverified, the receiver raises ``refusal``, if set."""

    trust: Trust
    flaw: Flaw | None = None
    webhook_id: str | None = None
    refusal: NotProven | None = None


def judge(verifier: Verifier | None, request: CallbackRequest, *, shared_url: bool, now: datetime) -> Judgement:
    """Return the trust level of a callback with a valid token. ``verifier`` is None if no secret is configured.

    Without a secret, a task callback URL proves its task, and Homing ignores a signature. A shared callback URL names
    no task, so its callbacks are unverified. Homing records a callback without a signature as unverified and answers
    2xx, because a refusal would lose results: the provider's legacy dialect may not sign its callbacks.
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


def _key(place: int, secret: str) -> bytes:
    try:
        return webhook_key(secret)
    except ValueError as error:
        raise ValueError(f"webhook secret {place}: {error}") from None


def _any_equal(keys: Sequence[bytes], signed: bytes, given: Sequence[bytes]) -> bool:
    """Return whether one of ``given`` is a signature of ``signed`` by one of the keys.

    It compares every pair in constant time and does not stop at the first match.
    """
    equal = False
    for key in keys:
        mine = written_signature(hmac.digest(key, signed, "sha256"))
        for theirs in given:
            equal |= hmac.compare_digest(mine, theirs)
    return equal
