"""The models of requests and answers of the task API."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
)

from tracker.api.http.base_schemas import Shown, Taken
from tracker.model.event import TrustName
from tracker.model.task import Alarm, Source, Status, Verdict
from tracker.model.untrusted import FIRST_YEAR, ID_LENGTH, LAST_YEAR
from tracker.service.arguments import METADATA_ENTRIES, METADATA_KEY_LENGTH, METADATA_VALUE_LENGTH

MAX_TAGS: Final = 20
TAG_LENGTH: Final = 64
NOTE_LENGTH: Final = 500
MAX_PAGE_SIZE: Final = 200
MAX_METADATA_FILTERS: Final = 5
# Proxies commonly end a request after a minute.
MAX_WAIT_SECONDS: Final = 55
LARGEST_ID: Final = 2**63 - 1
MAX_DEADLINE_SECONDS: Final = 366 * 24 * 3600


def printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable text")
    return value


def _sane(value: datetime) -> datetime:
    if not FIRST_YEAR < value.year < LAST_YEAR:
        raise ValueError(f"must lie between the years {FIRST_YEAR} and {LAST_YEAR}")
    return value


def _one_by_one(value: object) -> object:
    """Read both ``status=a&status=b`` and ``status=a,b``."""
    if isinstance(value, list):
        return [text for item in value for text in (item.split(",") if isinstance(item, str) else [item])]
    return value


Identifier = Annotated[str, Field(min_length=1, max_length=ID_LENGTH), AfterValidator(printable)]
Tag = Annotated[str, Field(min_length=1, max_length=TAG_LENGTH), AfterValidator(printable)]
Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=METADATA_KEY_LENGTH), AfterValidator(printable)]
MetadataValue = Annotated[str, Field(max_length=METADATA_VALUE_LENGTH), AfterValidator(printable)]
Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    Field(max_length=METADATA_ENTRIES, description="Your own texts about the task, by key."),
]
Seconds = Annotated[
    float, Field(gt=0, le=MAX_DEADLINE_SECONDS, description="Seconds until Homing stops waiting for an answer.")
]
Wait = Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait for a change.")]
Moment = Annotated[AwareDatetime, AfterValidator(_sane)]


class TaskQuery(Taken):
    """The tasks to list, newest first. Of several statuses, any matches."""

    status: Annotated[list[Status], BeforeValidator(_one_by_one)] = Field(default=[], max_length=len(Status))
    provider: Identifier | None = None
    kind: Identifier | None = None
    client: Annotated[
        Identifier | None, Field(description="Only tasks of this client. Needs a key that sees all clients.")
    ] = None
    model: Identifier | None = None
    tag: Tag | None = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Field(max_length=MAX_METADATA_FILTERS, description="`metadata[KEY]=VALUE`; several entries must all match."),
    ] = Field(default={})
    created_after: Moment | None = None
    created_before: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 50
    cursor: Annotated[Identifier | None, Field(description="`next_cursor` of the previous page.")] = None


class WaitQuery(Taken):
    """How long to wait until a task has another version than ``version`` (default: the current one)."""

    wait: Wait = 0
    version: Annotated[int | None, Field(ge=0, le=LARGEST_ID, description="The version that you know.")] = None


class PageQuery(Taken):
    """The length of a page."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 100


class CallbackUrlBody(Taken):
    """A shared callback URL to create."""

    provider: Identifier
    kind: Identifier | None = None
    label: Annotated[str, Field(max_length=NOTE_LENGTH), AfterValidator(printable)] = ""


class AssetShown(Shown):
    """One result file."""

    kind: Annotated[str, Field(description="image, video, audio, voice or element, or file.")]
    url: str
    index: int
    group: str
    watermark_url: str | None
    duration: Annotated[str | None, Field(description="Seconds, as the provider wrote them.")]
    provider_asset_id: str | None
    expires_at: Annotated[datetime | None, Field(description="When the URL stops working.")]


class ResultShown(Shown):
    """The results of the task. They are empty unless it succeeded."""

    assets: list[AssetShown]


class StatusSourceShown(Shown):
    """The source of the current status."""

    source: Source
    trust: TrustName


class TaskShown(Shown):
    """The state of one task."""

    id: str
    provider: str
    kind: str
    model: Annotated[str | None, Field(description="The requested model, if Homing submitted the task with one.")]
    client: str
    status: Status
    message: Annotated[str, Field(description="The provider's message, or why Homing inferred the status.")]
    reason: Annotated[str | None, Field(description="Why the task has its status, if that needs an explanation.")]
    provider_task_id: str | None
    external_id: Annotated[str | None, Field(description="Your own ID.")]
    origin: str
    tags: list[str]
    metadata: Annotated[dict[str, str], Field(description="Your own texts about the task, by key.")]
    request: Annotated[
        dict[str, JsonValue], Field(description="The submitted fields. Large values are replaced by digest and size.")
    ]
    result: ResultShown
    output: Annotated[
        JsonValue, Field(description="The free-form output of a succeeded task, for providers whose models have one.")
    ]
    price: Annotated[dict[str, JsonValue], Field(description="Price fields under the provider's names.")]
    version: int
    status_source: StatusSourceShown | None
    conflict: Literal["open", "unanswered"] | None
    conflict_at: Annotated[datetime | None, Field(description="When contradictory final statuses were first reported.")]
    callback_requested: bool
    poll_count: int
    created_at: datetime
    updated_at: datetime
    submitted_at: datetime | None
    finished_at: datetime | None
    last_observed_at: datetime | None
    polled_at: datetime | None
    next_poll_at: Annotated[datetime | None, Field(description="When Homing polls the provider next.")]
    deadline_at: datetime


class TaskPageShown(Shown):
    """Tasks, newest first. Only ``next_cursor: null`` ends the list. A page may have fewer tasks than ``limit``."""

    tasks: list[TaskShown]
    next_cursor: str | None


class EntryShown(Shown):
    """One observation: its source, its trust level and its effect."""

    id: int
    at: datetime
    source: Source
    trust: TrustName
    verdict: Verdict
    why: str
    provider_status: Annotated[str | None, Field(description="The provider's own status.")]
    status: Status | None
    provider_updated_at: datetime | None
    repeats: Annotated[
        int, Field(description="The number of identical callbacks, or of equally failed polls, after the first.")
    ]
    body_size: int
    body_sha256: str
    body: Annotated[str | None, Field(description="The first 4 KiB. Only keys that see all clients get it.")]


class AccountTroubleShown(Shown):
    """One reason why Homing cannot call the provider for an account, or not as often as needed."""

    reason: Annotated[
        Literal["credential", "budget", "paused", "outage", "unreadable"],
        Field(description="Clients must accept reasons that are added later."),
    ]
    why: str
    since: datetime
    until: datetime | None


class HistoryShown(Shown):
    """A task, its observations (oldest first), and the problems of its account at the provider."""

    task: TaskShown
    entries: list[EntryShown]
    account: list[AccountTroubleShown]


class PolledShown(Shown):
    """The task after a poll, and the result in a sentence."""

    task: TaskShown
    outcome: str


class ExpectedShown(Shown):
    """The task, and its callback URL, which is shown only once."""

    task: TaskShown
    callback_url: str | None


class AlarmShown(Shown):
    """How often an alarm was raised within one hour."""

    kind: Alarm
    provider: str
    hour: datetime
    count: int
    last_at: datetime
    task_id: str | None
    detail: str


Share = Annotated[float, Field(ge=0, le=1)]


class CallbackLossShown(Shown):
    """The share of lost callbacks among the latest finished `tasks`, at most 50.

    With 95 % confidence, the real share is between `low` and `high`.
    """

    provider: str
    kind: str
    rate: Share
    low: Share
    high: Share
    lost: int
    tasks: int


class RunTimesShown(Shown):
    """The run times of the latest tasks of a model that Homing submitted."""

    provider: str
    kind: str
    model: Annotated[
        str, Field(description="The provider's name of the model. It is empty if the provider has no choice of models.")
    ]
    median: Annotated[float, Field(description="Seconds.")]
    tasks: int


class StatsShown(Shown):
    """Counts over the tasks that the client may see."""

    by_status: dict[str, int]
    open: int
    due: int
    oldest_open_at: datetime | None
    finished_by_source: dict[str, int]
    callbacks: int
    duplicate_callbacks: int
    unverified_callbacks: int
    polls: int
    orphans: dict[str, int]
    orphans_not_kept: Annotated[
        int, Field(description="Unsigned orphan callbacks over the limit of their URL. They are only counted.")
    ]
    alarms: list[AlarmShown]
    callback_loss: Annotated[list[CallbackLossShown], Field(description="Only for keys that see all clients.")]
    run_times: Annotated[list[RunTimesShown], Field(description="Only for keys that see all clients.")]


class OrphanShown(Shown):
    """A callback for an unknown task."""

    id: int
    provider: str
    provider_task_id: str
    external_id: str | None
    kind: str | None
    client: str
    provider_status: str | None
    state: str
    why: str
    first_at: datetime
    last_at: datetime
    callbacks: int
    poll_count: int
    next_poll_at: datetime | None
    task_id: str | None


class OrphansShown(Shown):
    """Orphan callbacks, the latest callback first."""

    orphans: list[OrphanShown]


class CallbackUrlShown(Shown):
    """A shared callback URL, without its token."""

    id: int
    provider: str
    kind: str | None
    client: str
    label: str
    created_at: datetime
    revoked_at: datetime | None


class NewCallbackUrlShown(Shown):
    """A new shared callback URL. Only this response shows `callback_url`."""

    shared_callback_url: CallbackUrlShown
    callback_url: str


class CallbackUrlsShown(Shown):
    """All shared callback URLs, including revoked ones."""

    callback_urls: list[CallbackUrlShown]


class DocumentShown(Shown):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: str
