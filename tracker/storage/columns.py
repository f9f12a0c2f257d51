"""What columns are made of: the few sorts that the tables have."""

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Table, Text, text
from sqlmodel import Field, SQLModel

# SQLite numbers rows by itself only in a column of type INTEGER.
ROW_ID = BigInteger().with_variant(Integer, "sqlite")


def row_id() -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_column=Column(ROW_ID, primary_key=True, autoincrement=True))


def time_column(*, nullable: bool = True) -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_type=BigInteger, nullable=nullable)


def text_column(*, nullable: bool = True, primary_key: bool = False) -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_type=Text, nullable=nullable and not primary_key, primary_key=primary_key)


def bytes_column(*, nullable: bool = False) -> Any:  # noqa: ANN401 - SQLModel's Field is typed Any
    return Field(default=None, sa_type=LargeBinary, nullable=nullable)


def only(condition: str) -> dict[str, Any]:
    """Let an index hold only the rows of a condition, on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def table_of(row: type[SQLModel]) -> Table:
    return SQLModel.metadata.tables[str(row.__tablename__)]
