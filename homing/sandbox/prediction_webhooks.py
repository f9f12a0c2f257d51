"""Sends the webhooks of predictions.

Documented: a webhook at the start and at the end; only the final one is sent again, on no answer, 4xx or 5xx, with
exponential pauses, the last one about a minute after the end; the webhook-id stays the same. Assumed: the pauses, and
that a redirect is not followed.
"""

import asyncio
import time

import httpx

from homing.sandbox import shapes
from homing.sandbox.callback_sender import BackgroundJobs, trust
from homing.sandbox.faults import Faults
from homing.sandbox.outgoing_callback import Attempt, Delivery, OutgoingCallback, webhook_id
from homing.sandbox.prediction import EVENTS, Prediction
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.signing import Seal, seal
from homing.sandbox.submission import JsonObject

_LAST_RETRY_SECONDS = 60.0
_EVEN = 0.5


class PredictionWebhooks:
    """Creates and sends the webhooks of each change of a prediction's status."""

    def __init__(self, settings: SandboxSettings, faults: Faults, jobs: BackgroundJobs) -> None:
        self._settings = settings
        self._faults = faults
        self._jobs = jobs
        self._client = httpx.AsyncClient(
            timeout=settings.callback_timeout, follow_redirects=False, trust_env=False, verify=trust()
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    def announce(self, prediction: Prediction) -> None:
        """Send the webhook about the present status, with the faults that apply."""
        event = EVENTS[prediction.status]
        if prediction.webhook is None or event not in prediction.events or not self._settings.callbacks:
            return
        if not prediction.final and not self._settings.intermediate:
            return
        lost = self._faults.strike("callback_lost", prediction.index, prediction.status)
        identity = webhook_id(prediction.id, prediction.status)
        self._dispatch(prediction, self._made(prediction, prediction.webhook, identity), lost=lost is not None)
        if prediction.final and (dice := self._faults.strike("callback_doubled", prediction.index)):
            again = identity if dice.random() < _EVEN else webhook_id(prediction.id, "again")
            self._dispatch(prediction, self._made(prediction, prediction.webhook, again))

    def steered(
        self,
        prediction: Prediction,
        *,
        target: str | None = None,
        seal: Seal = "genuine",
        identity: str | None = None,
        changes: JsonObject | None = None,
    ) -> Delivery:
        """Send one webhook as a test specifies it, once."""
        to = target or prediction.webhook or ""
        made = self._made(
            prediction, to, identity or webhook_id(prediction.id, f"steered/{len(prediction.callbacks)}"), seal, changes
        )
        return self._dispatch(prediction, made)

    def _made(
        self,
        prediction: Prediction,
        target: str,
        identity: str,
        seal: Seal = "genuine",
        changes: JsonObject | None = None,
    ) -> OutgoingCallback:
        return OutgoingCallback(
            kind="genuine" if changes is None and seal == "genuine" else "steered",
            about=prediction.id,
            target=target,
            status=prediction.status,
            body=shapes.dumps(prediction.as_json() | (changes or {})),
            webhook_id=identity,
            seal=seal,
        )

    def _dispatch(self, prediction: Prediction, callback: OutgoingCallback, *, lost: bool = False) -> Delivery:
        delivery = Delivery(callback=callback, state="unsent" if lost else "waiting")
        prediction.callbacks.append(delivery)
        if not lost:
            self._jobs.spawn(self._deliver(delivery, retries=prediction.final and callback.kind == "genuine"))
        return delivery

    async def _deliver(self, delivery: Delivery, *, retries: bool) -> None:
        pause, waited = self._settings.callback_backoff, 0.0
        while not await self._attempt(delivery):
            if not retries or waited + pause > _LAST_RETRY_SECONDS:
                delivery.state = "refused"
                return
            await asyncio.sleep(pause)
            waited += pause
            pause *= 2
        delivery.state = "delivered"

    async def _attempt(self, delivery: Delivery) -> bool:
        callback, now = delivery.callback, time.time()
        headers = seal(
            callback.seal,
            secrets=self._settings.webhook_secrets,
            webhook_id=callback.webhook_id,
            timestamp=int(now),
            body=callback.body,
        )
        answer, error = None, None
        try:
            reply = await self._client.post(
                callback.target, content=callback.body, headers={"content-type": "application/json", **headers}
            )
            answer = reply.status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as failure:
            error = type(failure).__name__
        attempt = Attempt(at=int(now * 1000), answer=answer, error=error)
        delivery.attempts.append(attempt)
        return attempt.accepted
