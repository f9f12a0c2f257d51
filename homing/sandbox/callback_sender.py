"""Sends callbacks to their URLs.

Kling publishes no timeout, no retry policy and no order of callbacks. The sandbox assumes these values, and settings
change them: 5 s for an attempt, and three attempts, 0.5 s and then 1 s apart, unless the answer is 2xx. Each attempt
has the same webhook-id, a new timestamp and a new signature. Redirects are not followed. The first attempts of one
task's callbacks are in order.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Coroutine
from functools import cache

import httpx

from homing.sandbox.callback_factory import CallbackFactory
from homing.sandbox.outgoing_callback import FORGED_KINDS, Attempt, Delivery, OutgoingCallback
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.signing import seal
from homing.sandbox.task import Task

_log = logging.getLogger(__name__)


@cache
def trust() -> ssl.SSLContext:
    """Return the default certificates. They are read once, because reading them takes longer than most tests."""
    return httpx.create_ssl_context(trust_env=False)


class BackgroundJobs:
    """Coroutines that run in the background. A failure is logged and does not affect the others."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        job = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(job)
        job.add_done_callback(self._done)
        return job

    def _done(self, job: asyncio.Task[None]) -> None:
        self._running.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:
            _log.error("a background job of the sandbox failed", exc_info=error)

    async def aclose(self) -> None:
        running = list(self._running)
        for job in running:
            job.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class CallbackSender:
    """Sends callbacks, retries genuine ones, and replays some of them to a wrong URL."""

    def __init__(self, settings: SandboxSettings, factory: CallbackFactory, jobs: BackgroundJobs) -> None:
        self._settings = settings
        self._factory = factory
        self._jobs = jobs
        self._workers = asyncio.Semaphore(settings.callback_workers)
        self._client = httpx.AsyncClient(
            timeout=settings.callback_timeout, follow_redirects=False, trust_env=False, verify=trust()
        )
        self._waiting = 0
        self._specimen: Delivery | None = None
        self._victims: list[Task] = []

    async def aclose(self) -> None:
        await self._client.aclose()

    def dispatch(self, task: Task, callbacks: list[OutgoingCallback]) -> list[Delivery]:
        """Record the callbacks and send them in order. If too many are waiting, a callback stays unsent."""
        deliveries = [Delivery(callback=callback) for callback in callbacks]
        task.callbacks += deliveries
        for delivery in deliveries:
            if delivery.callback.kind == "lost" or self._waiting >= self._settings.max_pending_callbacks:
                delivery.state = "unsent"
            else:
                self._waiting += 1
                self._jobs.spawn(self._deliver(task, delivery))
        return deliveries

    def replay_on(self, victim: Task) -> None:
        """Send a genuine final callback of another task to this task's URL, as soon as one exists."""
        if self._specimen is None:
            self._victims.append(victim)
        else:
            self._replay(self._specimen, victim)

    def _replay(self, specimen: Delivery, victim: Task) -> None:
        if target := victim.submission.callback_url:
            self.dispatch(victim, [self._factory.replay(specimen, target)])

    async def _deliver(self, task: Task, delivery: Delivery) -> None:
        try:
            await asyncio.sleep(delivery.callback.delay)
            async with task.turn:
                await self._attempt(delivery)
            self._keep_specimen(task, delivery)
            await self._retry(delivery)
        finally:
            self._waiting -= 1

    async def _retry(self, delivery: Delivery) -> None:
        pause = self._settings.callback_backoff
        while delivery.state == "waiting":
            await asyncio.sleep(pause)
            pause *= 2
            await self._attempt(delivery)

    def _goes_again(self, delivery: Delivery) -> bool:
        once = delivery.callback.kind in FORGED_KINDS or delivery.callback.kind == "steered"
        return not once and len(delivery.attempts) < self._settings.callback_attempts

    async def _attempt(self, delivery: Delivery) -> None:
        callback, now = delivery.callback, time.time()
        headers = callback.headers
        if headers is None:
            headers = seal(
                callback.seal,
                secrets=self._settings.webhook_secrets,
                webhook_id=callback.webhook_id,
                timestamp=int(now),
                body=callback.body,
            )
        delivery.sent_headers = delivery.sent_headers or dict(headers)
        answer, error = None, None
        try:
            async with self._workers, asyncio.timeout(self._settings.callback_timeout):
                reply = await self._client.post(
                    callback.target,
                    content=callback.body,
                    headers={"content-type": "application/json; charset=utf-8", **headers},
                )
            answer = reply.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError) as failure:
            error = type(failure).__name__
        attempt = Attempt(at=int(now * 1000), answer=answer, error=error)
        delivery.attempts.append(attempt)
        if attempt.accepted:
            delivery.state = "delivered"
        elif not self._goes_again(delivery):
            delivery.state = "refused"

    def _keep_specimen(self, task: Task, delivery: Delivery) -> None:
        if delivery.callback.kind != "genuine" or not task.state.final or delivery.callback.status != task.state.status:
            return
        self._specimen = delivery
        victims = [victim for victim in self._victims if victim is not task]
        self._victims = [victim for victim in self._victims if victim is task]
        for victim in victims:
            self._replay(delivery, victim)
