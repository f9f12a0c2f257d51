"""How Kling's callbacks are proven: Standard Webhooks, since 2026-08-07, where a secret exists in the console.

Source: https://kling.ai/document-api, "Callback protocol". The secret starts with ``whsec_``, the tolerance is five
minutes, during a rotation (seven days) the header holds one signature for each secret. Without a secret in the console
no signature headers are sent.
"""

from collections.abc import Sequence
from typing import Final

from receiver.verification import StandardWebhooks
from tracker.model.webhook_keys import webhook_key

NAME: Final = "kling"


def verifier(secrets: Sequence[str]) -> StandardWebhooks:
    """Make the verifier of the console's secrets. Raises ValueError naming the unusable one by its place only."""
    return StandardWebhooks(keys=tuple(_key(place, secret) for place, secret in enumerate(secrets, start=1)))


def _key(place: int, secret: str) -> bytes:
    try:
        return webhook_key(secret)
    except ValueError as error:
        raise ValueError(f"webhook secret {place}: {error}") from None
