"""Hints for the planner of a database."""

from typing import TypeVar

from sqlalchemy import ColumnElement, func

T = TypeVar("T")


def aside(column: ColumnElement[T]) -> ColumnElement[T]:
    """Return a column's value in a form for which planners have no statistics.

    Use it for a condition beside the selective one. The planner then chooses no other index for it and does not
    estimate its rows.
    """
    return func.coalesce(column, column, type_=column.type)
