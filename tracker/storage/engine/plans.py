"""Saying to a database's planner what we know better."""

from typing import TypeVar

from sqlalchemy import ColumnElement, func

T = TypeVar("T")


def aside(column: ColumnElement[T]) -> ColumnElement[T]:
    """Return a column's value in a form that no planner knows anything about.

    For a condition beside the one that leads to few rows: the planner then neither looks for another index because of
    it nor believes to know how many rows it leaves.
    """
    return func.coalesce(column, column, type_=column.type)
