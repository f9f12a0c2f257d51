"""The predictions of the sandbox's Replicate, their lives, and the steering of a test."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Iterator
from random import Random

from homing.sandbox.callback_sender import BackgroundJobs
from homing.sandbox.ledger import delivery_json
from homing.sandbox.prediction import FINALS, PROCESSING, Prediction
from homing.sandbox.prediction_webhooks import PredictionWebhooks
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.signing import Seal
from homing.sandbox.steering import UnknownTaskError
from homing.sandbox.submission import JsonObject
from homing.sandbox.task_runner import SteeringError

_FIRST_CHANGE_SHARE = 0.2
_ERROR = "CUDA out of memory"


class Predictions:
    """All predictions, oldest first. ``requests`` counts the requests by name."""

    def __init__(self, settings: SandboxSettings, webhooks: PredictionWebhooks, jobs: BackgroundJobs) -> None:
        self._settings = settings
        self._webhooks = webhooks
        self._jobs = jobs
        self._made: dict[str, Prediction] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self.requests: dict[str, int] = {}
        self._started_at = time.time_ns()

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._made.values())

    def count(self, name: str) -> int:
        """Count a request and return its number, from 1."""
        self.requests[name] = self.requests.get(name, 0) + 1
        return self.requests[name]

    def by_id(self, prediction_id: str) -> Prediction | None:
        return self._made.get(prediction_id)

    def next_id(self) -> str:
        """Return the ID of the next prediction: 26 letters and digits, as in the documented examples."""
        digest = hashlib.sha256(
            f"{self._settings.seed}/prediction/{len(self._made)}/{self._started_at}".encode()
        ).digest()
        return base64.b32encode(digest).decode().lower()[:26]

    def enter(self, prediction: Prediction) -> None:
        """Start a prediction. Its first webhook says that it is starting."""
        prediction.held = self._settings.held
        self._made[prediction.id] = prediction
        self._webhooks.announce(prediction)
        if not prediction.held:
            self._lives[prediction.id] = self._jobs.spawn(self._live(prediction))

    def process(self, prediction: Prediction) -> None:
        self._check_open(prediction)
        prediction.status, prediction.started_at = PROCESSING, time.time()
        self._webhooks.announce(prediction)

    def finish(
        self,
        prediction: Prediction,
        *,
        status: str | None = None,
        output: object = None,
        error: str | None = None,
        notify: bool = True,
    ) -> None:
        """End a prediction now. A success without an ``output`` has one file, or as many as ``num_outputs``."""
        self._check_open(prediction)
        if (life := self._lives.pop(prediction.id, None)) is not None and life is not asyncio.current_task():
            life.cancel()
        ended = status or self._fate(prediction)
        if ended not in FINALS:
            raise SteeringError(f"status must be one of {', '.join(FINALS)}")
        prediction.started_at = prediction.started_at or time.time()
        prediction.status, prediction.completed_at = ended, time.time()
        if ended == "succeeded":
            prediction.output = self._files(prediction) if output is None else output
        prediction.error = error or (_ERROR if ended == "failed" else None)
        if notify:
            self._webhooks.announce(prediction)

    def steer(self, prediction_id: str, action: str, arguments: JsonObject) -> JsonObject:
        """Do one action of a test: `process`, `finish` or `callback`."""
        prediction = self.by_id(prediction_id)
        if prediction is None:
            raise UnknownTaskError(f"there is no prediction {prediction_id}")
        if action == "callback":
            seal: Seal = arguments.pop("seal", "genuine")
            return delivery_json(self._webhooks.steered(prediction, seal=seal, **arguments))
        if action == "process":
            self.process(prediction)
        else:
            self.finish(prediction, **arguments)
        return ledger_row(prediction)

    def as_json(self) -> list[JsonObject]:
        return [ledger_row(prediction) for prediction in self]

    async def _live(self, prediction: Prediction) -> None:
        await asyncio.sleep(self._settings.run_time * _FIRST_CHANGE_SHARE)
        self.process(prediction)
        await asyncio.sleep(self._settings.run_time * (1 - _FIRST_CHANGE_SHARE))
        self.finish(prediction)

    def _fate(self, prediction: Prediction) -> str:
        dice = Random(f"{self._settings.seed}/prediction/{prediction.index}")  # noqa: S311 - reproducible, no secret
        return "failed" if dice.random() < self._settings.failure_rate else "succeeded"

    def _files(self, prediction: Prediction) -> list[str]:
        wanted = prediction.input.get("num_outputs", 1)
        count = min(wanted, 10) if isinstance(wanted, int) else 1
        return [f"{prediction.base_url}/files/{prediction.id}/out-{number}.png" for number in range(count)]

    @staticmethod
    def _check_open(prediction: Prediction) -> None:
        if prediction.final:
            raise SteeringError(f"the prediction has already ended: {prediction.status}")


def ledger_row(prediction: Prediction) -> JsonObject:
    """Return the true state of a prediction, with its callbacks."""
    return prediction.as_json() | {
        "account": prediction.account,
        "webhook": prediction.webhook,
        "queries": prediction.queries,
        "callbacks": [delivery_json(delivery) for delivery in prediction.callbacks],
    }
