"""The interface of a provider: functions from values to a Call, and from a Reply to an outcome. No I/O.

A request has three steps: the provider shapes a ``Call``, ``tracker.transport`` sends it and returns a ``Reply``, and
the provider reads the reply. An outcome is always one of the types below. Reading never raises, whatever the bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from tracker.errors import InvalidRequest
from tracker.model.task import Report
from tracker.model.untrusted import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a provider. ``path`` starts with a slash and is relative to the base URL of the account."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of a provider. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A bearer key."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """An access key and the secret that signs short-lived tokens for it."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


Credential = ApiKey | KeyPair | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The capabilities that a provider documents. Homing learns what a base URL really does (see ``storage``).

    ``batch_size`` is how many IDs one query may have (0: none). ``result_lifetime`` is how long result URLs work.
    """

    signs_callbacks: bool
    batch_size: int
    lists_tasks: bool
    result_lifetime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One product: its path name, the usual run time of its tasks, and the deadline.

    ``looks_up`` is false if the provider documents no query by external ID for this kind. Then a "not found" about an
    external ID proves nothing. ``takes_external_id`` is false if its create request has no field for one: then no reply
    and no callback can repeat it either. ``own_queries`` is false if queries and lists of this kind also return tasks
    of other kinds, without their kind. ``needs_api_key`` kinds do not take a ``KeyPair``.
    """

    name: str
    usual: timedelta
    deadline: timedelta
    looks_up: bool = True
    takes_external_id: bool = True
    own_queries: bool = True
    needs_api_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The provider made the task."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The provider refused finally and made no task. The HTTP status, code and message are its own."""

    http_status: int
    code: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """The provider refused for now and made no task: too many requests or no free slot."""

    http_status: int
    code: int
    message: str
    retry_after: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCredential:
    """The provider does not accept Homing's credential or IP address, and made no task."""

    code: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The reply does not show whether the task exists (5xx, unreadable). ``why`` is for the history.

    ``unavailable`` marks the documented "try again" answer (maintenance). ``unreadable`` marks an answer that is not
    the provider's, such as a web page. ``excerpt`` is its beginning. It may repeat a credential, so mask it before
    storing. ``mismatch`` marks an answer about another task than the requested one.
    """

    why: str
    unavailable: bool = False
    unreadable: bool = False
    mismatch: bool = False
    excerpt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Refused because the provider has a task with this external ID, from an earlier or a repeated submission.

    Homing must never submit the task again, whatever a lookup returns. ``why`` is for the history.
    """

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSuchCall:
    """The base URL does not offer the call: an unknown path, or a redirect. No task was made.

    ``why`` may be shown to clients. ``text`` is the answer, for the operator only. Mask credentials before storing it.
    """

    why: str
    text: str = ""


SubmitOutcome = Accepted | Rejected | Busy | BadCredential | NoSuchCall | Duplicate | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The question of a query: about the task of a kind with an ID, which is an external ID if ``external``."""

    kind: str
    task_id: str
    external: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The provider knows the task. ``body`` is the task's own JSON, for the history.

    ``callback_url`` is where the provider says that it sends the task's callbacks, empty if it does not say that.
    """

    report: Report
    body: bytes
    callback_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The provider's exact documented not-found answer to a single query. Absence from a batch is not this."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """The base URL lacks this capability. That says nothing about the credential."""

    why: str


PollOutcome = Found | Missing | Busy | BadCredential | Unknown | Unsupported
# Several tasks in one reply. An ID without a task is simply absent.
ManyOutcome = Sequence[Found] | Busy | BadCredential | Unknown | Unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the provider's list. ``next`` is the cursor of the next page, or None at the end."""

    found: Sequence[Found]
    next: str | None = None


ListOutcome = Page | Busy | BadCredential | Unknown | Unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A validated create request: the body for the provider, and the fields that the row stores.

    ``body`` is the request without callback URL and external ID. ``shown`` is the same with digests and sizes instead
    of large images. ``external_id`` and ``callback_url`` are the client's. ``model`` is the requested model, or empty
    if the provider chooses. Homing expects similar run times for tasks of one model.
    """

    kind: str
    body: JsonObject
    shown: JsonObject
    request_hash: str
    model: str = ""
    external_id: str | None = None
    callback_url: str | None = None


class WrongModel(InvalidRequest):
    """A kind with the model in its path got none, or a wrong one. Or another kind got one."""


class Provider(Protocol):
    """A remote API. Every method is a pure function. Every provider passes the shared suite in tests/suites."""

    @property
    def name(self) -> str:
        """The name in URLs and rows."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The kinds of tasks that Homing submits and tracks, by path name."""

    def order(self, kind: str, body: JsonObject, *, model: str = "") -> Order:
        """Validate a client's create request. ``model`` is the one in its path, for kinds that have it there.

        Raises: InvalidRequest, with the field and its bound. WrongModel, if ``model`` does not fit the kind.
        """

    def authorization(self, credential: Credential, now: datetime) -> Mapping[str, str]:
        """Return the headers with the credential."""

    def submit(self, order: Order, *, external_id: str, callback_url: str | None) -> Call:
        """Return the create request with Homing's IDs. A kind that takes no external ID ignores it."""

    def read_submit(self, reply: Reply, *, external_id: str) -> SubmitOutcome: ...

    def query(self, wanted: Query) -> Call | None:
        """Return the single query, by the provider's ID or by an external ID if the provider supports it.

        None if no task of the provider can have the ID.
        """

    def read_query(self, reply: Reply, wanted: Query) -> PollOutcome:
        """Read the answer to the single query.

        A reply about another task is Unknown and a ``mismatch``. The reply to an external ID must contain that ID. A
        reply without one counts if its provider ID differs: then only the external ID can have found it.
        A task with the ID counts in any wrapper. An unreadable reply is Unknown and ``unreadable``.
        """

    def query_many(self, task_ids: Sequence[str]) -> Call:
        """Return one query for at most ``capabilities.batch_size`` provider IDs."""

    def read_query_many(self, reply: Reply) -> ManyOutcome: ...

    def list_page(self, kind: str, cursor: str | None) -> Call:
        """Return the query for a page of the account's tasks of a kind, None for the first page."""

    def read_list(self, reply: Reply, kind: str, cursor: str | None) -> ListOutcome:
        """Read a page. The tasks may be of other kinds too if the provider lists several together."""

    def read_callback(self, body: bytes) -> Report:
        """Read a callback in any shape of the provider. It never raises. ``flaw`` says what is unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One credential at one provider URL. ``credential_settings`` and ``address_setting`` name the settings.

    Without a credential, Homing submits no tasks and only records callbacks.
    """

    name: str
    provider: Provider
    base_url: str
    credential: Credential
    credential_settings: str = ""
    address_setting: str = ""

    @property
    def id(self) -> str:
        """The name of the account among those of all providers."""
        return f"{self.provider.name}/{self.name}"
