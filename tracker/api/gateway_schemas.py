"""The provider's answers and queries at the gateway, for /openapi.json. ``tracker.providers.kling_gateway`` makes them.

Documentation: https://kling.ai/document-api, the page of each product. ``tracker.providers.kling_bodies`` has the
bodies of create requests.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tracker.api.http.base_schemas import Shown

LEGACY_WORD = Literal["submitted", "processing", "succeed", "failed"]
NEW_WORD = Literal["submitted", "processing", "succeeded", "failed"]


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


class RefusalShown(Shown):
    """An error, with a code of the provider's table."""

    code: int
    message: str
    request_id: str
