"""The receiver's ASGI app and its one route: token → method → bounded raw body → signature → read → record → answer.

It has no router, because there is one route. At thousands of callbacks a second, a framework's routing costs as much
as verifying a signature. The order matters: the receiver verifies the token before it reads anything else, and answers
2xx only after the tracker committed the callback. An answer reveals nothing about the task:
docs/reference/callback-answers.md says, for each, why the provider should retry or stop.
"""

import asyncio
import hashlib
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Final, Protocol

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.errors import Disconnected
from receiver.limits import LARGE_BODIES, BodyBounds, Deadline, Late, UnsignedBound, read_body
from receiver.providers import verifiers
from receiver.settings import ReceiverSettings
from receiver.verification import CallbackRequest, Judgement, judge
from tracker.errors import (
    ClientError,
    HomingError,
    NotAllowed,
    NotFound,
    Overloaded,
    ServiceError,
    TooLarge,
    TooMany,
    TooSlow,
)
from tracker.model.content_encoding import decode, is_encoded
from tracker.model.records import Arrived, SharedCallbackUrl
from tracker.model.shared_capacity import SharedCapacity
from tracker.model.task import Flaw, Observation, Recorded, Source, Trust
from tracker.model.untrusted import READ_IN_THREAD
from tracker.providers.base import Account
from tracker.rules.callback_tokens import SHARED_BYTES, SHARED_PREFIX, shared_token

ROOT: Final = "/callbacks"
TEMPLATE: Final = "/callbacks/{provider}/{token}"
ELSEWHERE: Final = "/callbacks/…"
METHOD: Final = "POST"
RETRY_AFTER: Final = timedelta(seconds=5)
# The answer to a callback that is committed.
RECORDED: Final[Response] = JSONResponse({"status": "recorded"})
_SHARED_LENGTH: Final = len(shared_token(bytes(SHARED_BYTES)))
logger: Final = logging.getLogger("homing.receiver")


class CallbackTracker(Protocol):
    """The part of ``tracker.service.tracker.Tracker`` that the receiver uses."""

    @property
    def providers(self) -> Mapping[str, Account]: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...

    def task_of_token(self, provider: str, token: str) -> str | None: ...

    async def shared_callback_url(self, provider: str, token: str) -> SharedCallbackUrl | None: ...

    async def record(self, arrived: Arrived) -> Recorded:
        """Record a callback. It is committed when this returns. Canceling the wait does not stop the commit."""


class CallbackUrl(msgspec.Struct, frozen=True, kw_only=True):
    """The URL where a callback arrived, verified by its token: a task callback URL or a shared callback URL."""

    provider: str
    task_id: str | None = None
    shared_url: SharedCallbackUrl | None = None

    def __str__(self) -> str:
        """Name the URL without its token, for the log and for rate limits."""
        what = f"shared URL {self.shared_url.id}" if self.shared_url else f"task {self.task_id}"
        return f"{self.provider} {what}"


class _Line(msgspec.Struct, kw_only=True):
    """The fields of the log line of one callback. The receiver fills them while it processes the callback."""

    url: CallbackUrl | None = None
    size: int | None = None
    judgement: Judgement | None = None
    outcome: Recorded | None = None
    answer: str = ""

    def __str__(self) -> str:
        parts = [str(self.url or "unknown URL")]
        if self.outcome is not None:
            parts.append(self.outcome.verdict.value + (" (orphan)" if self.outcome.orphan else ""))
        parts.append(self.answer)
        if self.judgement is not None:
            parts.append(f"trust {self.judgement.trust.name.lower()}")
            parts.append(f"flaw {self.judgement.flaw.value}" if self.judgement.flaw else "")
        parts.append(f"{self.size} bytes" if self.size is not None else "")
        return ", ".join(each for each in parts if each)


class Receiver:
    """Answers every path below ``/callbacks`` and passes other requests to the app ``otherwise``.

    Without ``otherwise``, the receiver answers other requests like an unknown token. It can run alone, in front of
    another app, or mounted into one. The program that starts it must open and close the tracker.
    """

    def __init__(self, tracker: CallbackTracker, settings: ReceiverSettings, otherwise: ASGIApp | None = None) -> None:
        self._tracker = tracker
        self._otherwise = otherwise
        self._prefixed = f"{settings.prefix}{ROOT}/"
        self._clock = tracker.clock
        # Only the providers that both the tracker and the receiver know. The verifier is None if no secret is
        # configured.
        known = verifiers(settings.webhook_secrets)
        self._verifiers = {name: known[name] for name in tracker.providers if name in known}
        self._readers = {name: account.provider.read_callback for name, account in tracker.providers.items()}
        self._settings = settings
        self._unsigned = UnsignedBound(most=settings.counted_urls)
        self._bodies = BodyBounds(
            limit=settings.body_limit,
            deadline=Deadline(settings.body_timeout),
            capacity=SharedCapacity(settings.body_capacity, LARGE_BODIES),
        )
        self._commits = Deadline(settings.commit_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # A mounting app passes the whole path, and the mount point in `root_path`.
            path: str = scope["path"].removeprefix(scope.get("root_path", ""))
            if path.startswith(self._prefixed):
                # A proxy may keep or remove the path of the public URL.
                path = path[len(self._prefixed) - len(ROOT) - 1 :]
            match path.split("/"):
                case ["", "callbacks", provider, token] if provider and token:
                    await self._answer(provider, token, scope, receive, send)
                    return
            if self._otherwise is None or path == ROOT or path.startswith(f"{ROOT}/"):
                # Every other path below /callbacks, and a token with slashes, gets the answer of an unknown token.
                await _send(_refusal(_unknown_url()), send)
                logger.info("%s: %d", ELSEWHERE, NotFound.status)
                return
        if self._otherwise is not None:
            await self._otherwise(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, provider: str, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request to ``/callbacks/{provider}/{token}``."""
        line = _Line()
        level = logging.INFO
        try:
            task_id = self._tracker.task_of_token(provider, token) if provider in self._verifiers else None
            if task_id is not None:
                line.url = url = CallbackUrl(provider=provider, task_id=task_id)
            else:
                line.url = url = await self._shared_at(provider, token)
            level = await self._receive(url, scope, receive, line)
            response = RECORDED
        except Disconnected:
            logger.info("%s: %s, the sender left", TEMPLATE, line)
            return
        except Exception as error:  # noqa: BLE001 - the sender always gets an answer, and never a traceback
            known = error if isinstance(error, HomingError) else _unexpected(error)
            line.answer = known.title.lower()
            response = _refusal(known, http_version=scope.get("http_version", "1.1"))
        await _send(response, send)
        logger.log(level, "%s: %d, %s", TEMPLATE, response.status_code, line)

    async def _receive(self, url: CallbackUrl, scope: Scope, receive: Receive, line: _Line) -> int:
        """Read one callback and commit it, or raise the error to answer. Return the level of the log line.

        An ordinary callback is in the task's history, so its log line is at DEBUG level. At thousands of callbacks a
        second, an INFO line for each would cost too much.
        """
        if scope["method"] != METHOD:
            raise NotAllowed("callbacks must use POST")
        headers = scope["headers"]
        body = await read_body(receive, headers, self._bodies, url)
        line.size = len(body)
        now = self._clock()
        body, judgement = self._judged(url, headers, body, now)
        line.judgement = judgement
        trust = judgement.trust
        kept = body
        if trust is not Trust.SIGNED:
            self._bound(url, trust, now)
            if len(body) > self._settings.unsigned_kept:
                kept = _cut(body, self._settings.unsigned_kept)
        # Parse the whole body, even if only its beginning is stored.
        read = self._readers[url.provider]
        observation = Observation(
            source=Source.CALLBACK,
            trust=trust,
            report=read(body) if len(body) <= READ_IN_THREAD else await asyncio.to_thread(read, body),
            at=now,
            body=kept,
            flaw=judgement.flaw,
            webhook_id=judgement.webhook_id,
        )
        line.outcome = outcome = await self._commit(url, observation)
        if judgement.refusal is not None:
            raise judgement.refusal
        return logging.INFO if outcome.orphan or trust is Trust.UNVERIFIED else logging.DEBUG

    def _judged(
        self, url: CallbackUrl, headers: Sequence[tuple[bytes, bytes]], body: bytes, now: datetime
    ) -> tuple[bytes, Judgement]:
        """Decide the trust level of a callback. Return it with the decompressed body.

        The signature may cover the plain or the compressed body, because a sender may sign before or after compression.
        """
        verifier, shared_url = self._verifiers[url.provider], url.shared_url is not None
        encoding = next((value.decode("latin-1") for name, value in headers if name == b"content-encoding"), "")
        if not encoding or not is_encoded(encoding):
            return body, judge(verifier, CallbackRequest(headers=headers, body=body), shared_url=shared_url, now=now)
        plain = decode(body, encoding, limit=self._settings.body_limit)
        judgement = judge(verifier, CallbackRequest(headers=headers, body=plain), shared_url=shared_url, now=now)
        if judgement.refusal is not None:
            raw = judge(verifier, CallbackRequest(headers=headers, body=body), shared_url=shared_url, now=now)
            judgement = judgement if raw.refusal is not None and raw.flaw is Flaw.BAD_SIGNATURE else raw
        return plain, judgement

    async def _shared_at(self, provider: str, token: str) -> CallbackUrl:
        """Find the shared callback URL. Raise the same NotFound for every reason why a URL is not valid."""
        # Query the database only for a token that has the form of a shared token.
        if provider in self._verifiers and token.startswith(SHARED_PREFIX) and len(token) == _SHARED_LENGTH:
            shared_url = await self._tracker.shared_callback_url(provider, token)
            if shared_url is not None:
                return CallbackUrl(provider=provider, shared_url=shared_url)
        raise _unknown_url()

    def _bound(self, url: CallbackUrl, trust: Trust, now: datetime) -> None:
        settings = self._settings
        rate = settings.token_rate if trust is Trust.TOKEN else settings.unverified_rate
        if url.shared_url is not None:
            rate = settings.shared_rate
        if (wait := self._unsigned.take(url, per_minute=rate, now=now)) is not None:
            raise TooMany("too many unsigned callbacks at this URL", retry_after=wait)

    async def _commit(self, url: CallbackUrl, observation: Observation) -> Recorded:
        """Wait for the commit up to the time limit. The commit continues in any case."""
        if self._commits.waiting >= self._settings.commits:
            raise Overloaded("too many callbacks are waiting for their commit")
        arrived = Arrived(
            provider=url.provider, observation=observation, task_id=url.task_id, shared_url=url.shared_url
        )
        try:
            with self._commits:
                return await self._tracker.record(arrived)
        except Late:
            raise Overloaded("the commit takes too long") from None


def create_receiver(tracker: CallbackTracker, settings: ReceiverSettings, otherwise: ASGIApp | None = None) -> Receiver:
    """Create the receiver's ASGI app. See ``Receiver``."""
    return Receiver(tracker, settings, otherwise)


async def _live(receive: Receive, send: Send) -> None:
    """Confirm the server's startup and shutdown events."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _send(response: Response, send: Send) -> None:
    """Send an answer. Each call makes new messages, because a middleware may change the messages that it passes on."""
    headers = response.raw_headers.copy()
    try:
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
    except OSError:
        return  # the sender disconnected, but the callback is already recorded


def _refusal(error: HomingError, *, http_version: str = "1.1") -> Response:
    """Return the answer to an error: the status of a sender's mistake, or else 503 with Retry-After."""
    headers: dict[str, str] = {}
    if isinstance(error, NotAllowed):
        headers["allow"] = METHOD
    # The receiver does not read the rest of the body, so the connection cannot be reused. HTTP/2 has no such header.
    if isinstance(error, TooLarge | TooSlow) and http_version.startswith("1"):
        headers["connection"] = "close"
    ours = not isinstance(error, ClientError)
    wait = error.retry_after or (RETRY_AFTER if ours else None)
    if wait is not None:
        headers["retry-after"] = str(max(1, ceil(wait.total_seconds())))
    if ours:
        return JSONResponse({"status": "unavailable"}, ServiceError.status, headers)
    return JSONResponse({"status": "refused", "reason": error.title}, error.status, headers)


def _cut(body: bytes, limit: int) -> bytes:
    """Return the beginning of a body and a line with its digest, so that bodies with equal beginnings stay distinct."""
    cut = f"\n[cut by Homing: the first {limit} of {len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}]"
    return body[:limit] + cut.encode()


def _unknown_url() -> NotFound:
    """Return the one error for every reason why a URL is not valid."""
    return NotFound("no such callback URL")


def _unexpected(error: Exception) -> ServiceError:
    """Log only the type and place, because the message of an exception may contain a body or query parameters."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno} ({place.name})"
    logger.error("unexpected %s at %s", type(error).__qualname__, where)
    return ServiceError("an unexpected error")
