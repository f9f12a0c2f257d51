"""The error types.

    HomingError
    ├── OutcomeUnknown            500  the provider may have done it, but no answer shows it
    ├── ClientError               the client's mistake: repeating the same request cannot help
    │   ├── InvalidRequest        400  a body, a parameter or an id that cannot be used
    │   │   └── Unreadable        400  bytes that are not the expected text
    │   ├── NotAuthenticated      401
    │   ├── Forbidden             403
    │   ├── NotFound              404
    │   ├── NotAllowed            405
    │   ├── TooSlow               408  a body that did not arrive in time
    │   ├── Conflict              409  it contradicts what is already recorded
    │   ├── Gone                  410  it existed, but is no longer stored
    │   ├── TooLarge              413
    │   ├── WrongMediaType        415
    │   ├── TooMany               429  carries ``retry_after``
    │   └── Refused               422  the provider refused a submit and made no task; carries its answer
    └── ServiceError              Homing's problem: nothing was lost, and a later attempt may succeed
        ├── SettingsError         exit status 2: the settings contradict each other
        ├── StoreUnavailable      503  Homing acknowledges nothing that it cannot commit
        ├── Overloaded            503  a bound was reached
        ├── ProviderUnavailable   503  the provider could not be reached, and nothing was created there
        └── CredentialRefused     503  the provider refuses Homing's credential; not the client's error
            └── CredentialMissing 503  no credential is configured, so nothing was sent

``status`` is the HTTP status of each type. This tree is the only table from errors to statuses.
Messages are for the person who has to act. They never contain a secret, a token or a body.
"""

from datetime import timedelta
from typing import ClassVar


class HomingError(Exception):
    """Base of all errors that Homing raises on purpose."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class OutcomeUnknown(HomingError):
    """The provider may have done what was requested, but no readable answer came. Homing does not send it again."""

    title = "Outcome unknown"


class ClientError(HomingError):
    """The client's mistake."""

    status = 400
    title = "Bad request"


class InvalidRequest(ClientError):
    """A body, a parameter or an id that cannot be used."""

    title = "Invalid request"


class Unreadable(InvalidRequest):
    """Bytes that are not the expected text."""

    title = "Unreadable"


class NotAuthenticated(ClientError):
    """The request has no key, or an unknown one."""

    status = 401
    title = "Not authenticated"


class Forbidden(ClientError):
    """The client is known, but not allowed to do this."""

    status = 403
    title = "Forbidden"


class NotFound(ClientError):
    """Nothing exists here for this client."""

    status = 404
    title = "Not found"


class NotAllowed(ClientError):
    """A method that the resource does not have."""

    status = 405
    title = "Method not allowed"


class TooSlow(ClientError):
    """A body that did not arrive in time."""

    status = 408
    title = "Request timeout"


class Conflict(ClientError):
    """It contradicts what is already recorded."""

    status = 409
    title = "Conflict"


class Gone(ClientError):
    """The requested item existed, but is no longer stored."""

    status = 410
    title = "Gone"


class TooLarge(ClientError):
    """More bytes than are accepted here."""

    status = 413
    title = "Content too large"


class WrongMediaType(ClientError):
    """A content type that is not accepted here."""

    status = 415
    title = "Unsupported media type"


class TooMany(ClientError):
    """More requests than are accepted here; try later."""

    status = 429
    title = "Too many requests"


class Refused(ClientError):
    """The provider refused a submit and made no task.

    ``http_status``, ``code`` and ``detail`` are the provider's own. A client of the gateway gets them unchanged.
    ``retry_after`` is set if the provider refused only for now.
    """

    status = 422
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


class ServiceError(HomingError):
    """Homing's problem: nothing was lost, and a later attempt may succeed."""

    status = 503
    title = "Temporarily unavailable"


class SettingsError(ServiceError):
    """The settings contradict each other or cannot be read."""

    status = 500
    title = "Settings"


class StoreUnavailable(ServiceError):
    """The database cannot read or write rows now."""

    title = "Store unavailable"


class CommitUnknown(StoreUnavailable):
    """It is unknown whether the database has committed."""


class Overloaded(ServiceError):
    """A limit was reached. Homing refuses the request instead of queueing it."""

    title = "Overloaded"


class ProviderUnavailable(ServiceError):
    """The provider could not be reached, and nothing was created there."""

    title = "Provider unavailable"


class CredentialRefused(ServiceError):
    """The provider refuses the operator's credential."""

    title = "Credential refused"


class CredentialMissing(CredentialRefused):
    """The operator has set no credential for the provider: nothing was sent."""

    title = "Credential missing"


# A call to a provider ended without an answer. For a submission the difference decides whether the provider may have
# the task.
class NotSent(ServiceError):
    """The request never reached the provider, so it had no effect."""

    title = "Provider unreachable"


class ReplyLost(ServiceError):
    """The request may have reached the provider, but no answer arrived."""

    title = "Provider's answer lost"
