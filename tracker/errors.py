"""What can go wrong, drawn once.

    HomingError
    ├── CallerError               their mistake: repeating the request as it is cannot help
    │   ├── InvalidRequest        400  a body, a parameter or an id that cannot be used
    │   │   └── Unreadable        400  bytes that are not the text they should be
    │   ├── NotAuthenticated      401
    │   ├── Forbidden             403
    │   ├── NotFound              404
    │   ├── NotAllowed            405
    │   ├── TooSlow               408  a body that did not arrive in time
    │   ├── Conflict              409  it contradicts what is already recorded
    │   ├── Gone                  410  it was there, and is not kept any more
    │   ├── TooLarge              413
    │   ├── WrongMediaType        415
    │   ├── TooMany               429  carries ``retry_after``
    │   └── Refused               the provider refused a submit and made no task; carries its answer
    └── OurError                  our trouble: nothing was lost, and a later try may succeed
        ├── SettingsError         exit status 2: the settings contradict each other
        ├── StoreUnavailable      503  what cannot be committed is not acknowledged
        ├── Overloaded            503  a bound was reached
        ├── ProviderUnavailable   503  the provider could not be reached, and nothing was created there
        └── CredentialRefused     503  the provider refuses *our* credential; never shown as the caller's
            └── CredentialMissing 503  there is none to show to it, so nothing was sent

``status`` is the HTTP status that each type is answered with: the one error → status table is this tree.
Messages are written for the person who has to act; they never contain a secret, a token or a body.
"""

from datetime import timedelta
from typing import ClassVar


class HomingError(Exception):
    """Base of everything that Homing raises on purpose."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class CallerError(HomingError):
    """Their mistake."""

    status = 400
    title = "Bad request"


class InvalidRequest(CallerError):
    """A body, a parameter or an id that cannot be used."""

    title = "Invalid request"


class Unreadable(InvalidRequest):
    """Bytes that are not the text they should be."""

    title = "Unreadable"


class NotAuthenticated(CallerError):
    """No key, or none that is known."""

    status = 401
    title = "Not authenticated"


class Forbidden(CallerError):
    """Known, but not allowed."""

    status = 403
    title = "Forbidden"


class NotFound(CallerError):
    """Nothing there for this caller."""

    status = 404
    title = "Not found"


class NotAllowed(CallerError):
    """A method that the resource does not have."""

    status = 405
    title = "Method not allowed"


class TooSlow(CallerError):
    """A body that did not arrive in time."""

    status = 408
    title = "Request timeout"


class Conflict(CallerError):
    """It contradicts what is already recorded."""

    status = 409
    title = "Conflict"


class Gone(CallerError):
    """What is asked for was there, and is not kept any more."""

    status = 410
    title = "Gone"


class TooLarge(CallerError):
    """More bytes than are accepted here."""

    status = 413
    title = "Content too large"


class WrongMediaType(CallerError):
    """A content type that is not accepted here."""

    status = 415
    title = "Unsupported media type"


class TooMany(CallerError):
    """More requests than are accepted here; try later."""

    status = 429
    title = "Too many requests"


class Refused(CallerError):
    """The provider refused a submit and made no task.

    ``http_status``, ``code`` and ``detail`` are the provider's own and go to the caller as they are.
    """

    title = "Refused by the provider"

    def __init__(
        self,
        detail: str,
        *,
        http_status: int,
        code: int,
        task_id: str,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.http_status = http_status
        self.code = code
        self.task_id = task_id


class OurError(HomingError):
    """Our trouble: nothing was lost, and a later try may succeed."""

    status = 503
    title = "Temporarily unavailable"


class SettingsError(OurError):
    """The settings contradict each other or cannot be read."""

    status = 500
    title = "Settings"


class StoreUnavailable(OurError):
    """The database cannot take or give rows now."""

    title = "Store unavailable"


class CommitUnknown(StoreUnavailable):
    """The database was asked to commit and did not say whether it has."""


class Overloaded(OurError):
    """A bound was reached; the load is shed instead of queued."""

    title = "Overloaded"


class ProviderUnavailable(OurError):
    """The provider could not be reached, and nothing was created there."""

    title = "Provider unavailable"


class CredentialRefused(OurError):
    """The provider refuses the operator's credential."""

    title = "Credential refused"


class CredentialMissing(CredentialRefused):
    """The operator has set no credential for the provider: nothing was sent."""

    title = "Credential missing"


# How a call to a provider ends without an answer. For a submit the difference is all that matters: may the provider
# have it?
class NotSent(OurError):
    """The request never reached the provider: nothing can have come of it."""

    title = "Provider unreachable"


class ReplyLost(OurError):
    """The request may have reached the provider, and its answer did not reach us."""

    title = "Provider's answer lost"
