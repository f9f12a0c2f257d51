"""The interface of a provider: functions from values to a Call, and from a Reply to an outcome. No I/O.

A request has three steps: the provider shapes a ``Call``, ``tracker.transport`` sends it and returns a ``Reply``, and
the provider reads the reply. An outcome is always one of the types below. Reading never raises, whatever the bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from tracker.model.task import Report
from tracker.model.untrusted import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a provider: ``path`` is relative to the account's base URL and starts with a slash."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of a provider; header names are lower case."""

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

    ``batch_size`` is how many ids one query takes (0: none), ``result_lifetime`` how long result URLs work.
    """

    signs_callbacks: bool
    batch_size: int
    lists_tasks: bool
    echoes_external_ids: bool
    result_lifetime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One product: its path name, the usual run time of its tasks, and the deadline.

    Tasks of any kind may be expected, adopted and polled. Homing submits only tasks of a kind that ``submits``.
    """

    name: str
    usual: timedelta
    deadline: timedelta
    submits: bool = False


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
    """This reply does not show whether the task exists (5xx, nonsense); ``why`` is for the history.

    ``unavailable`` marks the documented "try again" answer (maintenance). ``unreadable`` marks an answer that came and
    is none of the provider's, such as a web page; ``excerpt`` is how it begins. An excerpt may repeat a credential:
    mask it before it is kept. ``mismatch`` marks an answer about another task than the requested one.
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

    ``why`` is for everybody, ``text`` is what was answered, for the operator: mask credentials before it is kept.
    """

    why: str
    text: str = ""


SubmitOutcome = Accepted | Rejected | Busy | BadCredential | NoSuchCall | Duplicate | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The provider knows the task. ``body`` is the task's own JSON, for the history."""

    report: Report
    body: bytes


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
class Order:
    """A validated submit body: what goes to the provider, and what the row stores.

    ``body`` is the provider's request without callback address and external id; ``shown`` the same with large images
    replaced by digest and size; ``external_id`` and ``callback_url`` are the caller's own. ``model`` is what the
    caller chose to run the task, under the provider's name for it; empty where the provider chooses. Tasks of one model
    are taken to run equally long.
    """

    kind: str
    body: JsonObject
    shown: JsonObject
    request_hash: str
    model: str = ""
    external_id: str | None = None
    callback_url: str | None = None


class Provider(Protocol):
    """A remote API. Every method is a pure function; the shared suite in tests/suites must pass."""

    @property
    def name(self) -> str:
        """The name in addresses and rows."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The products whose tasks may be followed, by path name; ``Kind.submits`` says which may be sent out."""

    def order(self, kind: str, body: JsonObject) -> Order:
        """Validate a caller's submit body. Raises InvalidRequest naming the field and its bound."""

    def authorization(self, credential: Credential, now: datetime) -> Mapping[str, str]:
        """Return the headers with the credential."""

    def submit(self, order: Order, *, external_id: str, callback_url: str | None) -> Call: ...

    def read_submit(self, reply: Reply, *, external_id: str) -> SubmitOutcome: ...

    def query(self, kind: str, task_id: str) -> Call:
        """Shape the single query, by the provider's id or, where the address knows them, an external id."""

    def read_query(self, reply: Reply, *, task_id: str, external: bool = False) -> PollOutcome:
        """Read the answer about ``task_id``, which is an external ID if ``external``.

        A reply about another task is Unknown and a ``mismatch``. The reply to an external ID must contain that ID. A
        reply without one counts if its provider ID differs: then only the external ID can have found it.
        A task that carries the id counts in any wrapper; a reply that cannot be read is Unknown and ``unreadable``.
        """

    def query_many(self, task_ids: Sequence[str]) -> Call:
        """Shape one query for at most ``capabilities.batch_size`` provider ids."""

    def read_query_many(self, reply: Reply) -> ManyOutcome: ...

    def list_page(self, kind: str, page: int) -> Call:
        """Shape the query for one page (from 1) of the account's tasks of a kind."""

    def read_list(self, reply: Reply) -> ManyOutcome: ...

    def read_callback(self, body: bytes) -> Report:
        """Read a callback in any shape the provider uses. Never raises: ``flaw`` says what could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One credential at one provider's address; the ``settings`` name what gives each, for whoever has to set it.

    Without a credential tasks are followed by what others report of them, and none are submitted.
    """

    name: str
    provider: Provider
    base_url: str
    credential: Credential
    credential_settings: str = ""
    address_setting: str = ""
