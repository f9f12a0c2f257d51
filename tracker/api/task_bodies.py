"""The models of the request bodies of the task API."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from tracker.api.http.base_schemas import Taken
from tracker.api.schemas import NOTE_LENGTH, Identifier, Metadata, Seconds, Tags, printable
from tracker.model.targets import MAX_URL_LENGTH


class CreateBody(Taken):
    """A task to submit, at any provider."""

    provider: Identifier
    kind: Identifier
    input: Annotated[
        dict[str, JsonValue],
        Field(description="The provider's own request body, without an external ID and without a callback URL."),
    ]
    model: Annotated[
        Identifier | None, Field(description="The model of a kind that has it in its path, such as `text-to-video`.")
    ] = None
    external_id: Annotated[
        Identifier | None, Field(description="Your own ID. A repeated request with the same input gets the same task.")
    ] = None
    callback_url: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_URL_LENGTH, description="It gets callbacks in the provider's shape."),
    ] = None
    deadline: Seconds | None = None
    tags: Tags = Field(default=[])
    metadata: Metadata = Field(default={})


class ExpectBody(Taken):
    """A task that you are about to submit yourself."""

    provider: Identifier
    kind: Identifier
    external_id: Identifier | None = None
    deadline: Seconds | None = None
    tags: Tags = Field(default=[])
    metadata: Metadata = Field(default={})


class AdoptBody(ExpectBody):
    """A task that is already running at the provider."""

    provider_task_id: Identifier


class AttachBody(Taken):
    """The provider's ID of an expected task."""

    provider_task_id: Identifier


class ResolveBody(Taken):
    """The status of a task that polling cannot decide (in a conflict: the correct one), or its provider task ID."""

    status: Literal["rejected", "expired", "succeeded", "failed"] | None = None
    provider_task_id: Identifier | None = None
    note: Annotated[str, Field(max_length=NOTE_LENGTH), AfterValidator(printable)] = ""

    @model_validator(mode="after")
    def _one_word(self) -> Self:
        if (self.status is None) == (self.provider_task_id is None):
            raise ValueError("set exactly one of status and provider_task_id")
        return self
