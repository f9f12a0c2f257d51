"""The base class of the tables, and their kinds of columns."""

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

CONDITION: Final = "condition"
# SQLite assigns row numbers only in a column of type INTEGER.
ROW_ID = BigInteger().with_variant(Integer, "sqlite")


class TableRow(SQLModel, registry=registry()):
    """The base of every table, with its own registry.

    A program that embeds Homing may have tables and classes with the same names. Its ``create_all`` creates only its
    own.
    """


METADATA: Final[MetaData] = TableRow.metadata


def row_id() -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_column=Column(ROW_ID, primary_key=True, autoincrement=True))


def time_column(*, nullable: bool = True) -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_type=BigInteger, nullable=nullable)


def text_column(*, nullable: bool = True, primary_key: bool = False) -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_type=Text, nullable=nullable and not primary_key, primary_key=primary_key)


def renamed_text_column(name: str) -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    """Return a text column whose name cannot be that of its field, because SQLModel uses that name itself."""
    return Field(default=None, sa_column=Column(name, Text))


def bytes_column(*, nullable: bool = False) -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_type=LargeBinary, nullable=nullable)


def only(condition: str) -> dict[str, Any]:
    """Return the options of an index over the rows of a condition, on both databases (see ``complete_indexes``)."""
    return {"sqlite_where": text(condition), "info": {CONDITION: condition}}


def complete_indexes() -> None:
    """Add the conditions of indexes for PostgreSQL, before they are compared with a database.

    This is not in their declaration, because SQLAlchemy would then import the PostgreSQL dialect, which takes 0.1 s.
    """
    for table in METADATA.tables.values():
        for index in table.indexes:
            if CONDITION in index.info:
                index.dialect_options["postgresql"]["where"] = text(index.info[CONDITION])


def table_of(row: type[TableRow]) -> Table:
    return METADATA.tables[str(row.__tablename__)]
