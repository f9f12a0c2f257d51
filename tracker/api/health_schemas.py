"""What the health checks answer."""

from typing import Annotated, Literal

from pydantic import Field

from tracker.api.http.schemas import Shown


class CheckShown(Shown):
    """One line of the health report."""

    name: str
    ok: bool
    detail: str
    fatal: Annotated[bool, Field(description="Whether requests cannot be served while it is not ok.")]


class AliveShown(Shown):
    """The process answers."""

    alive: Literal[True] = True


class ReadyShown(Shown):
    """Whether requests can be served, and the reason where they cannot."""

    ready: bool
    checks: list[CheckShown]
