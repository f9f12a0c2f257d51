"""The queries, bodies and answers of the endpoints of events, sinks and deliveries."""

from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tracker.api.http.base_schemas import Shown, Taken
from tracker.api.schemas import LARGEST_ID, MAX_PAGE_SIZE, Identifier, Moment, TaskShown, Wait
from tracker.model.task import Alarm

MAX_FILTER_VALUES: Final = 50
Cursor = Annotated[int, Field(ge=0, le=LARGEST_ID)]
Wanted = Annotated[list[Identifier], Field(max_length=MAX_FILTER_VALUES)]


class EventQuery(Taken):
    """Which events to return. An event must match one of the values of each parameter."""

    after: Annotated[Cursor | None, Field(description="The cursor to continue from. 0 is the beginning.")] = None
    type: Wanted = Field(default=[], description="Such as `succeeded` or `homing.alarm.*`.")
    provider: Wanted = Field(default=[])
    kind: Wanted = Field(default=[], description="It may contain the wildcards `*` and `?`.")
    client: Wanted = Field(default=[], description="Only events of these clients. Needs a key that sees all clients.")
    tag: Wanted = Field(default=[])
    task: Annotated[Identifier | None, Field(description="Only events of this task, by any of its IDs.")] = None
    wait: Annotated[
        Wait | None, Field(description="Wait at most this many seconds for an event, then return a page.")
    ] = None
    limit: Annotated[
        int | None,
        Field(ge=1, le=MAX_PAGE_SIZE, description="Return a page of at most this many events (default 100)."),
    ] = None


class AlarmData(Shown):
    """An alarm, the first of its kind within an hour."""

    kind: Alarm
    provider: str
    hour: datetime
    at: datetime
    task_id: str | None
    detail: str


class EventShown(Shown):
    """An event as a CloudEvent."""

    specversion: Literal["1.0"]
    id: Annotated[str, Field(description="The same in every delivery of the event.")]
    source: str
    type: str
    subject: Annotated[str, Field(description="The ID of the task, or the name of the alarm's counter.")]
    time: datetime
    datacontenttype: Literal["application/json"]
    dataschema: str
    sequence: Annotated[
        str, Field(description="Grows with each event of the task. It has 10 or 19 digits and sorts as text.")
    ]
    partitionkey: str
    data: TaskShown | AlarmData


class EventsShown(Shown):
    """A page of events, in the order of their commits."""

    events: list[EventShown]
    next: Annotated[int, Field(description="The cursor to continue from.")]
    more: Annotated[bool, Field(description="Whether the next page exists already.")]


class OffShown(Shown):
    """Why a sink gets no deliveries, and how to resume it."""

    by: Annotated[Literal["endpoint", "operator"], Field(description="What turned the sink off.")]
    why: Annotated[str, Field(description="The response of the endpoint.")]
    at: Annotated[datetime | None, Field(description="When it was turned off; null if an operator paused it.")]
    resume: Annotated[str, Field(description="The request and the command that resume it.")]


class SinkShown(Shown):
    """The progress of one sink."""

    name: str
    url: Annotated[str, Field(description="The URL of the sink, without secrets.")]
    state: Annotated[
        Literal["on", "failing", "off"],
        Field(description="Off: its endpoint answered 410, or an operator paused it."),
    ]
    off: Annotated[OffShown | None, Field(description="Why the sink is off; null if it is not off.")]
    configured: Annotated[bool, Field(description="Whether HOMING_SINKS of the answering process has this sink.")]
    unread: Annotated[int, Field(description="Events that the relay has not read for this sink yet.")]
    unread_at_least: Annotated[bool, Field(description="Whether there may be more than `unread`.")]
    pending: Annotated[int, Field(description="Deliveries that will be retried.")]
    dead_letters: Annotated[int, Field(description="Deliveries that will not be retried.")]
    delivered: int
    lag: Annotated[
        float | None,
        Field(description="Seconds since the oldest event that the sink did not get; null if there is none."),
    ]
    failures: Annotated[int, Field(description="Failed attempts since the last success.")]
    last_error: str
    last_error_at: datetime | None
    delivered_at: datetime | None
    retry_at: datetime | None


class SinksShown(Shown):
    """All sinks, by name."""

    sinks: list[SinkShown]


class ResumeQuery(Taken):
    """Where to continue."""

    from_now: Annotated[bool, Field(description="Skip the events that the sink missed.")] = False


class SinkNamed(Shown):
    """A sink, and its state after the request."""

    name: str
    state: Literal["on", "off", "deleted"]


class SecretQuery(Taken):
    """The client, for a sink that has a secret for each client."""

    client: Identifier | None = None


class SecretShown(Shown):
    """The secrets with which an endpoint verifies Homing's signature."""

    name: str
    secrets: Annotated[list[str], Field(description="All are valid. Homing signs with each of them.")]


class DeliveryQuery(Taken):
    """Which deliveries to list, in the order of their events."""

    sink: Identifier | None = None
    task: Annotated[Identifier | None, Field(description="Any of its IDs.")] = None
    state: Literal["pending", "dead_letter"] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 50
    cursor: Annotated[str | None, Field(max_length=300, description="`next_cursor` of the previous page.")] = None


class DeliveryShown(Shown):
    """An event that a sink did not accept at once."""

    sink: str
    event_id: str
    type: str
    task_id: str | None
    state: Literal["pending", "dead_letter"]
    attempts: Annotated[int, Field(description="0 if the delivery waits for an earlier event of its task.")]
    error: str
    first_at: datetime
    last_at: datetime
    next_at: datetime | None


class DeliveriesShown(Shown):
    """Pending deliveries and dead letters."""

    deliveries: list[DeliveryShown]
    next_cursor: str | None


class ReplayBody(Taken):
    """The events to replay to a sink. An event must match every field that is set."""

    sink: Identifier
    task: Annotated[Identifier | None, Field(description="Any of its IDs.")] = None
    since: Moment | None = None
    until: Moment | None = None
    dead_letter: Annotated[bool, Field(description="Only deliveries that will not be retried.")] = False
    dry_run: Annotated[bool, Field(description="Only count them.")] = True

    @model_validator(mode="after")
    def _narrowed(self) -> Self:
        if self.task is None and self.since is None and self.until is None and not self.dead_letter:
            raise ValueError("no events are selected. Set at least one of task, since, until and dead_letter")
        return self


class ReplayShown(Shown):
    """How many events are replayed, or would be."""

    count: int
    dry_run: bool


class DeadLetterBody(Taken):
    """The pending deliveries to stop retrying. A delivery must match every field that is set."""

    sink: Annotated[Identifier | None, Field(description="Only deliveries to this sink.")] = None
    task: Annotated[Identifier | None, Field(description="Any of its IDs.")] = None
    event: Annotated[Identifier | None, Field(description="The ID of an event.")] = None
    dry_run: Annotated[bool, Field(description="Only count them.")] = True

    @model_validator(mode="after")
    def _narrowed(self) -> Self:
        if self.sink is None and self.task is None and self.event is None:
            raise ValueError("no deliveries are selected. Set at least one of sink, task and event")
        return self


class DeadLetteredShown(Shown):
    """How many deliveries are no longer retried, or would not be."""

    count: int
    dry_run: bool


class EventsDocumentShown(Shown):
    """An AsyncAPI document."""

    model_config = ConfigDict(extra="allow")

    asyncapi: str
