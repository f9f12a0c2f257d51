"""The errors of helper calls for their clients, and their answers without the operator's credential."""

from dataclasses import replace
from datetime import timedelta
from typing import Final, assert_never

from tracker.errors import (
    CredentialRefused,
    HomingError,
    NotSent,
    OutcomeUnknown,
    ProviderUnavailable,
    Refused,
)
from tracker.providers.base import Account, BadCredential, Busy, NoSuchCall, Rejected, Unknown
from tracker.providers.helper_calls import HelperAnswer, HelperCall, HelperOutcome
from tracker.providers.masking import excerpt, masked, masked_values, secrets_of

RETRY_LATER: Final = timedelta(seconds=5)
BUSY_PAUSE: Final = timedelta(seconds=1)
NO_SUCH_RESOURCE: Final = (404, 1203)
PARAMETER_REFUSED: Final = (400, 1201)

FULL: Final = "too many calls wait for the provider's answer. Nothing was sent. Try again later"
UNKNOWN: Final = (
    "no readable answer came from the provider, so it is unknown whether this call was done and charged. "
    "Homing does not send it again"
)
NOT_KEPT: Final = "this call was done, but its answer was too large to keep. Homing does not send it again"
STILL_RUNNING: Final = (
    "this call is still running under the same Idempotency-Key. Repeat it later. It is sent only once"
)
KEY_USED: Final = "the Idempotency-Key was used with another call or another body"
UNREACHABLE: Final = "the provider cannot be reached. Nothing was done. Try again later"
UNREADABLE: Final = "the provider gave no readable answer in time. Nothing was changed. Try again later"
NO_SUCH_CALL: Final = "the provider of this server does not have this call. Nothing was done"
CREDENTIAL: Final = "credential refused: the operator sees an alarm"


def not_found(helper: HelperCall) -> Rejected:
    """Return the provider's refusal of an unknown object."""
    status, code = PARAMETER_REFUSED
    return Rejected(http_status=status, code=code, message=helper.not_found)


def error_of(outcome: HelperOutcome | NotSent) -> HomingError:
    """Return the error of an outcome that is not an answer. All but OutcomeUnknown say that nothing was done."""
    match outcome:
        case Rejected():
            return _refused(outcome.message, outcome.http_status, outcome.code)
        case Busy():
            return _refused(outcome.message, outcome.http_status, outcome.code, outcome.retry_after or BUSY_PAUSE)
        case BadCredential():
            return CredentialRefused(CREDENTIAL, retry_after=RETRY_LATER)
        case NoSuchCall():
            return _refused(NO_SUCH_CALL, *NO_SUCH_RESOURCE)
        case NotSent():
            return ProviderUnavailable(UNREACHABLE, retry_after=RETRY_LATER)
        case Unknown() | HelperAnswer():
            return OutcomeUnknown(UNKNOWN)
        case _:
            assert_never(outcome)


def without_credential(outcome: HelperOutcome, account: Account, token: str) -> HelperOutcome:
    """Mask the operator's credential and the sent ``token`` in an answer, which its client or an alarm shows."""
    match outcome:
        case HelperAnswer():
            body = masked_values(outcome.body, (*secrets_of(account.credential), token))
            assert isinstance(body, dict)
            return replace(outcome, body=body)
        case Rejected() | Busy() | BadCredential():
            return replace(outcome, message=masked(outcome.message, account.credential))
        case Unknown():
            return replace(outcome, excerpt=excerpt(outcome.excerpt, account.credential))
        case NoSuchCall():
            return outcome
        case _:
            assert_never(outcome)


def _refused(message: str, http_status: int, code: int, wait: timedelta | None = None) -> Refused:
    return Refused(message, http_status=http_status, code=code, task_id="", retry_after=wait)
