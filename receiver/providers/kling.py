"""The verifier of Kling's callbacks: Standard Webhooks, since 2026-08-07.

Source: https://kling.ai/document-api, "Callback protocol". The secret starts with ``whsec_``. The tolerance is five
minutes. During a rotation (seven days) the header holds one signature for each secret. Kling sends no signature
headers if the console has no secret.
"""

from collections.abc import Sequence
from typing import Final

from receiver.verification import StandardWebhooks

NAME: Final = "kling"


def verifier(secrets: Sequence[str]) -> StandardWebhooks:
    """Create the verifier. Raises ValueError, which names an unusable secret only by its position."""
    return StandardWebhooks.from_secrets(secrets)
