"""The base classes of the models of requests and responses. Only the API and the settings use pydantic."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Taken(BaseModel):
    """A body or a query. Unknown names are refused, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Shown(BaseModel):
    """A part of a response."""

    model_config = ConfigDict(frozen=True)


class Nothing(Taken):
    """No query parameters, or no body."""


class ProblemShown(Shown):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Field(description="`urn:homing:problem:` and the kind of problem.")]
    title: str
    status: int
    detail: Annotated[str, Field(description="What is wrong and what to do.")]
    request_id: str
    provider_code: Annotated[str | None, Field(description="The provider's code, if it refused the request.")] = None
    task_id: Annotated[str | None, Field(description="The task whose history shows the refused request.")] = None
