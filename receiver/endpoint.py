"""The one callback route: token → method → bounded raw body → signature → read → record → answer.

Written as a plain ASGI app, because the order matters: nothing of a request is looked at before its token is good, and
nothing is answered 2xx before the tracker has committed it. docs/reference/callback-answers.md explains each answer.
"""

import asyncio
import hashlib
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from receiver.answers import METHOD, RECORDED, refusal, send_answer
from receiver.errors import Disconnected
from receiver.limits import LARGE_BODIES, BodyBounds, Deadline, Late, UnsignedBound, read_body
from receiver.settings import ReceiverSettings
from receiver.verification import CallbackRequest, Judgement, Verifier, judge
from tracker.errors import HomingError, NotAllowed, NotFound, OurError, Overloaded, TooMany
from tracker.model.content_encoding import decode, is_encoded
from tracker.model.records import Arrived, SharedCallbackUrl
from tracker.model.rooms import Room
from tracker.model.task import Flaw, Observation, Recorded, Source, Trust
from tracker.model.untrusted import READ_IN_THREAD
from tracker.providers.base import Account
from tracker.rules.callback_tokens import STANDING_BYTES, STANDING_PREFIX, standing_token

TEMPLATE: Final = "/callbacks/{provider}/{token}"
ELSEWHERE: Final = "/callbacks/…"
_STANDING_LENGTH: Final = len(standing_token(bytes(STANDING_BYTES)))
logger: Final = logging.getLogger("homing.receiver")


class CallbackTracker(Protocol):
    """The part of ``tracker.service.tracker.Tracker`` that the receiver uses."""

    @property
    def providers(self) -> Mapping[str, Account]: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...

    def task_of_token(self, provider: str, token: str) -> str | None: ...

    async def standing_address(self, provider: str, token: str) -> SharedCallbackUrl | None: ...

    async def record(self, arrived: Arrived) -> Recorded:
        """Record a callback; committed when this returns. A caller that stops waiting does not stop the commit."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a callback arrived, verified by its token: at a task's own URL or at a shared one."""

    provider: str
    task_id: str | None = None
    shared_url: SharedCallbackUrl | None = None

    def __str__(self) -> str:
        """Name the address without its token, for the log and for counting."""
        what = f"shared URL {self.shared_url.id}" if self.shared_url else f"task {self.task_id}"
        return f"{self.provider} {what}"


class _Line(msgspec.Struct, kw_only=True):
    """What the log's one line about a callback says; filled as far as the callback gets."""

    address: Address | None = None
    size: int | None = None
    judgement: Judgement | None = None
    outcome: Recorded | None = None
    answer: str = ""

    def __str__(self) -> str:
        parts = [str(self.address or "no address")]
        if self.outcome is not None:
            parts.append(self.outcome.verdict.value + (" (orphan)" if self.outcome.orphan else ""))
        parts.append(self.answer)
        if self.judgement is not None:
            parts.append(f"trust {self.judgement.trust.name.lower()}")
            parts.append(f"flaw {self.judgement.flaw.value}" if self.judgement.flaw else "")
        parts.append(f"{self.size} bytes" if self.size is not None else "")
        return ", ".join(each for each in parts if each)


class CallbackEndpoint:
    """Receives callbacks for one tracker; ``verifiers`` by provider, None where no secret is configured."""

    def __init__(
        self, tracker: CallbackTracker, verifiers: Mapping[str, Verifier | None], settings: ReceiverSettings
    ) -> None:
        self._tracker = tracker
        self._clock = tracker.clock
        # How the callbacks of the providers that both sides know are verified, and how they are read.
        self._verifiers = {name: verifiers[name] for name in tracker.providers if name in verifiers}
        self._readers = {name: account.provider.read_callback for name, account in tracker.providers.items()}
        self._settings = settings
        self._unsigned = UnsignedBound(most=settings.counted_addresses)
        self._bodies = BodyBounds(
            limit=settings.body_limit,
            deadline=Deadline(settings.body_timeout),
            room=Room(settings.body_room, LARGE_BODIES),
        )
        self._commits = Deadline(settings.commit_timeout)

    async def receive(self, provider: str, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request to the address that ``provider`` and ``token`` make."""
        line = _Line()
        level = logging.INFO
        try:
            task_id = self._tracker.task_of_token(provider, token) if provider in self._verifiers else None
            if task_id is not None:
                line.address = address = Address(provider=provider, task_id=task_id)
            else:
                line.address = address = await self._shared_at(provider, token)
            level = await self._receive(address, scope, receive, line)
            response = RECORDED
        except Disconnected:
            logger.info("%s: %s, the sender left", TEMPLATE, line)
            return
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the sender gets an answer and no traceback
            known = error if isinstance(error, HomingError) else _unexpected(error)
            line.answer = known.title.lower()
            response = refusal(known, http_version=scope.get("http_version", "1.1"))
        await send_answer(response, send)
        logger.log(level, "%s: %d, %s", TEMPLATE, response.status_code, line)

    async def _receive(self, address: Address, scope: Scope, receive: Receive, line: _Line) -> int:
        """Take one callback in and commit it, or raise what the sender is answered; return the level of the log line.

        What is as it should be is in the history. At thousands a second, a log line for each would cost more than most
        of what is done here.
        """
        if scope["method"] != METHOD:
            raise NotAllowed("callbacks come by POST")
        headers = scope["headers"]
        body = await read_body(receive, headers, self._bodies, address)
        line.size = len(body)
        now = self._clock()
        body, judgement = self._judged(address, headers, body, now)
        line.judgement = judgement
        trust = judgement.trust
        kept = body
        if trust is not Trust.SIGNED:
            self._bound(address, trust, now)
            if len(body) > self._settings.unsigned_kept:
                kept = _cut(body, self._settings.unsigned_kept)
        # The whole body is read, however much of it is kept.
        read = self._readers[address.provider]
        observation = Observation(
            source=Source.CALLBACK,
            trust=trust,
            report=read(body) if len(body) <= READ_IN_THREAD else await asyncio.to_thread(read, body),
            at=now,
            body=kept,
            flaw=judgement.flaw,
            webhook_id=judgement.webhook_id,
        )
        line.outcome = outcome = await self._commit(address, observation)
        if judgement.refusal is not None:
            raise judgement.refusal
        return logging.INFO if outcome.orphan or trust is Trust.UNVERIFIED else logging.DEBUG

    def _judged(
        self, address: Address, headers: Sequence[tuple[bytes, bytes]], body: bytes, now: datetime
    ) -> tuple[bytes, Judgement]:
        """Judge a callback, and return its body as it was before it was compressed.

        A signature may cover either: who signs compresses later, or what compresses signs.
        """
        verifier, shared_url = self._verifiers[address.provider], address.shared_url is not None
        encoding = next((value.decode("latin-1") for name, value in headers if name == b"content-encoding"), "")
        if not encoding or not is_encoded(encoding):
            return body, judge(verifier, CallbackRequest(headers=headers, body=body), shared_url=shared_url, now=now)
        plain = decode(body, encoding, limit=self._settings.body_limit)
        judgement = judge(verifier, CallbackRequest(headers=headers, body=plain), shared_url=shared_url, now=now)
        if judgement.refusal is not None:
            raw = judge(verifier, CallbackRequest(headers=headers, body=body), shared_url=shared_url, now=now)
            judgement = judgement if raw.refusal is not None and raw.flaw is Flaw.BAD_SIGNATURE else raw
        return plain, judgement

    async def _shared_at(self, provider: str, token: str) -> Address:
        """Find the standing address, or raise NotFound, the same for everything that is wrong with an address."""
        # Only what could be a standing token costs a look into the database.
        if provider in self._verifiers and token.startswith(STANDING_PREFIX) and len(token) == _STANDING_LENGTH:
            shared_url = await self._tracker.standing_address(provider, token)
            if shared_url is not None:
                return Address(provider=provider, shared_url=shared_url)
        raise _no_address()

    def _bound(self, address: Address, trust: Trust, now: datetime) -> None:
        settings = self._settings
        rate = settings.token_rate if trust is Trust.TOKEN else settings.unverified_rate
        if address.shared_url is not None:
            rate = settings.shared_rate
        if (wait := self._unsigned.take(address, per_minute=rate, now=now)) is not None:
            raise TooMany("too many unsigned callbacks at this URL", retry_after=wait)

    async def _commit(self, address: Address, observation: Observation) -> Recorded:
        """Wait for the commit, but not for ever: it goes on when the sender leaves or the time is up."""
        if self._commits.waiting >= self._settings.commits:
            raise Overloaded("too many callbacks wait for their commit")
        arrived = Arrived(
            provider=address.provider, observation=observation, task_id=address.task_id, shared_url=address.shared_url
        )
        try:
            with self._commits:
                return await self._tracker.record(arrived)
        except Late:
            raise Overloaded("the commit takes too long") from None


async def refuse_elsewhere(send: Send) -> None:
    """Answer all else below /callbacks, tokens with slashes among it, as an unknown token is answered."""
    await send_answer(refusal(_no_address()), send)
    logger.info("%s: %d", ELSEWHERE, NotFound.status)


def _cut(body: bytes, limit: int) -> bytes:
    """Return the beginning of a body, and a line that keeps two bodies apart that only begin alike."""
    cut = f"\n[cut by Homing: the first {limit} of {len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}]"
    return body[:limit] + cut.encode()


def _no_address() -> NotFound:
    """Return the same error for everything that can be wrong with an address."""
    return NotFound("no such callback address")


def _unexpected(error: Exception) -> OurError:
    """Log by type and place only: the message of a foreign exception may quote the body or a query's parameters."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno} ({place.name})"
    logger.error("unexpected %s at %s", type(error).__qualname__, where)
    return OurError("an unexpected error")
