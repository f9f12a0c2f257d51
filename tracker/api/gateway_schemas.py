"""The provider's shapes at the gateway, for /openapi.json. ``tracker.providers.kling_gateway`` makes them.

Documentation: https://kling.ai/document-api, page "Omni-Image", and the resellers' older copy of it.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tracker.api.http.base_schemas import Shown
from tracker.model.untrusted import ID_LENGTH
from tracker.providers.kling_order import ASPECT_RATIOS, MAX_IMAGES, NEGATIVE_PROMPT_LENGTH, PROMPT_LENGTH

LEGACY_WORD = Literal["submitted", "processing", "succeed", "failed"]
NEW_WORD = Literal["submitted", "processing", "succeeded", "failed"]


class OmniImageBody(BaseModel):
    """The official body and the resellers'. Fields that are not listed go to the provider unchanged.

    An empty text counts as a missing field.
    """

    model_config = ConfigDict(extra="allow")

    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT_LENGTH)]
    model_name: str | None = None
    negative_prompt: Annotated[str | None, Field(max_length=NEGATIVE_PROMPT_LENGTH)] = None
    image: Annotated[str | None, Field(description="The URL of an image, or the image in Base64.")] = None
    image_fidelity: Annotated[float | None, Field(ge=0, le=1)] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_IMAGES, description="The number of images. 1.0 counts as 1.")] = None
    aspect_ratio: Annotated[str | None, Field(json_schema_extra={"enum": [*ASPECT_RATIOS, "", None]})] = None
    external_task_id: Annotated[
        str | None, Field(max_length=ID_LENGTH, description="Your own ID. It must be unique among your tasks.")
    ] = None
    callback_url: Annotated[
        str | None, Field(description="An https URL on the public internet. Homing calls it in the provider's shape.")
    ] = None


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
