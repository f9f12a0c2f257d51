"""What the API takes and shows of events, of the sinks that they go to, and of what those could not be told."""

from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tracker.api.http.schemas import Shown, Taken
from tracker.api.schemas import LARGEST_ID, MAX_PAGE_SIZE, Identifier, Moment, TaskShown, Wait
from tracker.model.task import Alarm

MAX_FILTER_VALUES: Final = 50
Cursor = Annotated[int, Field(ge=0, le=LARGEST_ID)]
Wanted = Annotated[list[Identifier], Field(max_length=MAX_FILTER_VALUES)]


class EventQuery(Taken):
    """Which events to tell: of what is repeated any, of different things all."""

    after: Annotated[Cursor | None, Field(description="The cursor to go on from; 0: from the beginning.")] = None
    type: Wanted = Field(default=[], description="Such as `succeeded`, `homing.alarm.*`.")
    provider: Wanted = Field(default=[])
    kind: Wanted = Field(default=[], description="May hold `*` and `?`.")
    client: Wanted = Field(default=[], description="Other clients' events; for keys that see all.")
    tag: Wanted = Field(default=[])
    task: Annotated[Identifier | None, Field(description="Only this task's, by any of its ids.")] = None
    wait: Annotated[Wait | None, Field(description="A page, once there is an event or the seconds are over.")] = None
    limit: Annotated[int | None, Field(ge=1, le=MAX_PAGE_SIZE, description="A page of at most so many (100).")] = None


class AlarmTold(Shown):
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
    id: Annotated[str, Field(description="The same however often the event is told.")]
    source: str
    type: str
    subject: Annotated[str, Field(description="The task's id, or what an alarm is counted under.")]
    time: datetime
    datacontenttype: Literal["application/json"]
    dataschema: str
    sequence: Annotated[
        str, Field(description="Grows with each event of the task; 10 or 19 digits, which compare as text.")
    ]
    partitionkey: str
    data: TaskShown | AlarmTold


class EventsShown(Shown):
    """A page of events, in the order in which they were committed."""

    events: list[EventShown]
    next: Annotated[int, Field(description="The cursor to go on from.")]
    more: Annotated[bool, Field(description="Whether the next page can be had at once.")]


class OffShown(Shown):
    """Why a sink is told nothing, and what turns it on again."""

    by: Annotated[Literal["receiver", "operator"], Field(description="Who wants no more.")]
    why: Annotated[str, Field(description="What the receiver answered.")]
    at: Annotated[datetime | None, Field(description="Since when; null where an operator paused it.")]
    resume: Annotated[str, Field(description="The request, and the command.")]


class SinkShown(Shown):
    """How far one sink is told."""

    name: str
    address: str
    state: Annotated[Literal["on", "failing", "off"], Field(description="Off: the receiver or you asked for no more.")]
    off: Annotated[OffShown | None, Field(description="Why it is off; null where it is not.")]
    named: Annotated[bool, Field(description="Whether the settings of the process that answers name it.")]
    behind: Annotated[int, Field(description="Events that the relay has not yet looked at for this sink.")]
    behind_at_least: Annotated[bool, Field(description="Whether there may be more than `behind`.")]
    waiting: Annotated[int, Field(description="Deliveries that will be tried again.")]
    dead: Annotated[int, Field(description="Deliveries that were given up.")]
    delivered: int
    lag: Annotated[float | None, Field(description="Seconds since the first event that it was not told; null: none.")]
    failures: Annotated[int, Field(description="Since the last success.")]
    last_error: str
    last_error_at: datetime | None
    delivered_at: datetime | None
    retry_at: datetime | None


class SinksShown(Shown):
    """Every sink, by name."""

    sinks: list[SinkShown]


class ResumeQuery(Taken):
    """From where to go on."""

    from_now: Annotated[bool, Field(description="Forget what it has missed.")] = False


class SinkNamed(Shown):
    """A sink that something was done to."""

    name: str
    state: Literal["on", "off", "forgotten"]


class SecretQuery(Taken):
    """Whose secret: of a sink that signs for each client with another."""

    client: Identifier | None = None


class SecretShown(Shown):
    """What a sink's receiver proves our signature with."""

    name: str
    secrets: Annotated[list[str], Field(description="The first signs; all are valid.")]


class DeliveryQuery(Taken):
    """Which deliveries to list, in the order of their events."""

    sink: Identifier | None = None
    task: Annotated[Identifier | None, Field(description="Any of its ids.")] = None
    state: Literal["waiting", "dead"] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 50
    cursor: Annotated[str | None, Field(max_length=300, description="`next_cursor` of the page before.")] = None


class DeliveryShown(Shown):
    """An event that a sink could not be told at once."""

    sink: str
    event_id: str
    type: str
    task_id: str | None
    state: Literal["waiting", "dead"]
    attempts: Annotated[int, Field(description="0: it waits behind an earlier event of its task.")]
    error: str
    first_at: datetime
    last_at: datetime
    next_at: datetime | None


class DeliveriesShown(Shown):
    """Deliveries that wait or are dead."""

    deliveries: list[DeliveryShown]
    next_cursor: str | None


class ReplayBody(Taken):
    """Which events to tell a sink again; what is given narrows."""

    sink: Identifier
    task: Annotated[Identifier | None, Field(description="Any of its ids.")] = None
    since: Moment | None = None
    until: Moment | None = None
    dead: Annotated[bool, Field(description="Only those that were given up.")] = False
    dry_run: Annotated[bool, Field(description="Only count them.")] = True

    @model_validator(mode="after")
    def _narrowed(self) -> Self:
        if self.task is None and self.since is None and self.until is None and not self.dead:
            raise ValueError("give at least one of task, since, until and dead")
        return self


class ReplayShown(Shown):
    """How many events are told again, or would be."""

    count: int
    dry_run: bool


class GiveUpBody(Taken):
    """Which owed deliveries to give up; what is given narrows."""

    sink: Annotated[Identifier | None, Field(description="Only what this one is owed.")] = None
    task: Annotated[Identifier | None, Field(description="Any of its ids.")] = None
    event: Annotated[Identifier | None, Field(description="The id of an event.")] = None
    dry_run: Annotated[bool, Field(description="Only count them.")] = True

    @model_validator(mode="after")
    def _narrowed(self) -> Self:
        if self.sink is None and self.task is None and self.event is None:
            raise ValueError("give at least one of sink, task and event")
        return self


class GiveUpShown(Shown):
    """How many deliveries are given up, or would be."""

    count: int
    dry_run: bool


class EventsDocumentShown(Shown):
    """An AsyncAPI document."""

    model_config = ConfigDict(extra="allow")

    asyncapi: str
