"""The answers of the health checks."""

from typing import Annotated, Literal

from pydantic import Field

from tracker.api.http.base_schemas import Shown


class CheckShown(Shown):
    """One line of the health report."""

    name: str
    ok: bool
    detail: str
    fatal: Annotated[bool, Field(description="Whether Homing cannot serve requests while this is not ok.")]


class AliveShown(Shown):
    """The process answers."""

    alive: Literal[True] = True


class ReadyShown(Shown):
    """Whether requests can be served, and if not, why."""

    ready: bool
    checks: list[CheckShown]
