"""The verifier of Replicate's callbacks: Standard Webhooks, with one secret per account.

Source: https://replicate.com/docs/topics/webhooks/verify-webhook and the validation in its public client library. The
secret starts with ``whsec_``. The webhook-id stays the same when Replicate sends a callback again.
"""

from collections.abc import Sequence
from typing import Final

from receiver.verification import StandardWebhooks

NAME: Final = "replicate"


def verifier(secrets: Sequence[str]) -> StandardWebhooks:
    """Create the verifier. Raises ValueError, which names an unusable secret only by its position."""
    return StandardWebhooks.from_secrets(secrets)
