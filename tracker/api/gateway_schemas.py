"""The provider's answers and queries at the gateway, for /openapi.json. ``tracker.providers.kling_gateway`` makes them.

Documentation: https://kling.ai/document-api, the page of each product. ``tracker.providers.kling_bodies`` has the
bodies of create requests.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tracker.api.http.base_schemas import Shown
from tracker.model.untrusted import ID_LENGTH

LEGACY_WORD = Literal["submitted", "processing", "succeed", "failed"]
# Virtual try-on says "succeed".
NEW_WORD = Literal["submitted", "processing", "succeeded", "succeed", "failed"]


class IgnoredQuery(BaseModel):
    """A query whose unknown names are ignored, as at the provider, because some clients add their own names."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class ListQuery(IgnoredQuery):
    """One page of a product's tasks."""

    pageNum: Annotated[int, Field(ge=1, le=1000)] = 1  # noqa: N815 - the provider's name
    pageSize: Annotated[int, Field(ge=1, le=500)] = 30  # noqa: N815 - the provider's name


class BatchQuery(IgnoredQuery):
    """At most 20 IDs, separated by commas, in exactly one of the two parameters."""

    task_ids: str | None = None
    external_task_ids: str | None = None


class CostsQuery(IgnoredQuery):
    """The time of the costs, in Unix milliseconds."""

    start_time: Annotated[int, Field(ge=0, lt=1 << 53)]
    end_time: Annotated[int, Field(ge=0, lt=1 << 53)]
    resource_pack_name: Annotated[str, Field(max_length=ID_LENGTH)] | None = None


class TasksFilter(BaseModel):
    """A filter of a list: the values that pass."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    key: Literal["status", "product_type"]
    values: list[str]


class TasksBody(BaseModel):
    """A page of a list. Unknown names are ignored, as at the provider. A cursor overrides the times."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    start_time: Annotated[str | int | None, Field(description="Unix milliseconds; 30 days before end_time.")] = None
    end_time: Annotated[str | int | None, Field(description="Unix milliseconds; now.")] = None
    cursor: str | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100
    filters: list[TasksFilter] = []


class TaskInfo(Shown):
    """The client's own ID, if the request has one."""

    external_task_id: str | None = None


class CreatedData(Shown):
    """A new task."""

    task_id: str
    task_info: TaskInfo
    task_status: LEGACY_WORD
    created_at: Annotated[int, Field(description="Unix milliseconds.")]
    updated_at: Annotated[int, Field(description="Unix milliseconds.")]


class TaskData(CreatedData):
    """A task. The price fields are the provider's."""

    model_config = ConfigDict(extra="allow")

    task_status_msg: str
    task_result: dict[str, JsonValue]


class NewTaskData(Shown):
    """A task in the shape of the new standard."""

    id: str
    status: NEW_WORD
    message: str
    create_time: int
    update_time: int
    external_id: str
    outputs: list[dict[str, JsonValue]]
    billing: list[dict[str, JsonValue]]


class EnvelopeShown(Shown):
    """The envelope of every answer."""

    code: Literal[0]
    message: str
    request_id: str


class CreatedEnvelope(EnvelopeShown):
    """The answer to a create request."""

    data: CreatedData


class TaskEnvelope(EnvelopeShown):
    """The answer to a single query."""

    data: TaskData


class TaskListEnvelope(EnvelopeShown):
    """The answer to a list."""

    data: list[TaskData]


class NewTasksEnvelope(EnvelopeShown):
    """The answer to a query for several tasks. Unknown IDs are absent."""

    data: list[NewTaskData]


class NewCreatedData(Shown):
    """A new task in the shape of the new standard. `solutions/virtual_try_on` has `task_id` instead of `id`."""

    id: str | None = None
    task_id: str | None = None
    status: NEW_WORD
    create_time: int
    update_time: int
    external_id: str


class NewCreatedEnvelope(EnvelopeShown):
    """The answer to a create request in the new standard."""

    data: NewCreatedData


class TaskPageData(Shown):
    """A page of tasks. The cursor is empty at the end."""

    result: list[NewTaskData]
    count: int
    next_cursor: str
    has_more: bool


class TaskPageEnvelope(EnvelopeShown):
    """The answer to a list by cursor."""

    data: TaskPageData


class HelperEnvelope(EnvelopeShown):
    """The provider's own answer to a helper call."""

    data: JsonValue


class RefusalShown(Shown):
    """An error, with a code of the provider's table."""

    code: int
    message: str
    request_id: str
