"""What every endpoint takes and shows: pydantic at the edge only, inside speak the values of ``tracker.model``."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Taken(BaseModel):
    """A body or a query: unknown names are refused, so that a misspelt one is not silently nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Shown(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


class Nothing(Taken):
    """No query parameters, or no body."""


class ProblemShown(Shown):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Field(description="urn:homing:problem: and the kind of problem.")]
    title: str
    status: int
    detail: Annotated[str, Field(description="What is wrong, for the person who has to act.")]
    request_id: str
