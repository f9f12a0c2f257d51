"""The records of helper calls that cost or make something."""

from datetime import datetime
from enum import StrEnum

import msgspec


class HelperState(StrEnum):
    """The state of a recorded helper call.

    ``sending``: the provider may have it. ``answered``: its answer was recorded. ``refused``: the provider refused it.
    ``not_sent``: it never reached the provider. ``unknown``: no readable answer came, so it may have been charged.
    """

    SENDING = "sending"
    ANSWERED = "answered"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


class HelperRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded helper call.

    ``call`` is its method and path. ``owner`` is the process that sends it, at the latest until ``until``. ``body`` is
    the provider's answer, and empty if it is too large to keep. ``digest`` and ``size`` are those of the whole answer.
    ``why`` explains a state other than ``answered``, without any text of the provider.
    """

    id: int = 0
    provider: str
    account: str
    client: str
    call: str
    request_hash: str
    idempotency_key: str | None
    owner: str
    created_at: datetime
    until: datetime
    state: HelperState = HelperState.SENDING
    ended_at: datetime | None = None
    http_status: int | None = None
    body: bytes = b""
    digest: str = ""
    size: int = 0
    why: str = ""
