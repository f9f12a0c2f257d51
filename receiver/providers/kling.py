"""The verifier of Kling's callbacks: Standard Webhooks, since 2026-08-07.

Source: https://kling.ai/document-api, "Callback protocol". The secret starts with ``whsec_``. The tolerance is five
minutes. During a rotation (seven days) the header holds one signature for each secret. Kling sends no signature
headers if the console has no secret.
"""

from collections.abc import Sequence
from typing import Final

from receiver.verification import StandardWebhooks
from tracker.model.webhook_keys import webhook_key

NAME: Final = "kling"


def verifier(secrets: Sequence[str]) -> StandardWebhooks:
    """Create the verifier. Raises ValueError, which names an unusable secret only by its position."""
    return StandardWebhooks(keys=tuple(_key(place, secret) for place, secret in enumerate(secrets, start=1)))


def _key(place: int, secret: str) -> bytes:
    try:
        return webhook_key(secret)
    except ValueError as error:
        raise ValueError(f"webhook secret {place}: {error}") from None
