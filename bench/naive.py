"""The naive handler: FastAPI with one SQLModel session per request, as in the tutorials of both.

``python -m bench.naive URL {def|async} TASKS``. It verifies nothing. The database is as durable as Homing's. The
handler is a plain function, which FastAPI runs in its threads, or an ``async`` function with the same session.
"""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import JSON, Column, Engine, event, insert
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlmodel import Field, Session, SQLModel, create_engine

from bench.deliveries import task_id
from bench.serving import serve

PATH: Final = "/callbacks/{provider}/{token}"


class NaiveTask(SQLModel, table=True):
    """One task."""

    id: str = Field(primary_key=True)
    status: str = "pending"
    result: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON))
    updated_at: datetime | None = None


class NaiveObservation(SQLModel, table=True):
    """One callback about a task."""

    id: int | None = Field(default=None, primary_key=True)
    task_id: str = Field(foreign_key="naivetask.id", index=True)
    status: str
    body: dict[str, Any] = Field(sa_column=Column(JSON))
    at: datetime


class TaskInfo(BaseModel):
    """The IDs that the client chose."""

    external_task_id: str


class Callback(BaseModel):
    """The body of a callback."""

    task_id: str
    task_status: str
    task_info: TaskInfo
    task_result: dict[str, Any]


def engine_of(url: str) -> Engine:
    """Return an engine as in the tutorial. On SQLite, its commits are as durable as Homing's."""
    if not url.startswith("sqlite"):
        return create_engine(url)
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 30})

    @event.listens_for(engine, "connect")
    def _durable(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine


def write_tasks(engine: Engine, count: int) -> None:
    """Create the tables, and the tasks of the callbacks."""
    SQLModel.metadata.create_all(engine)
    with engine.begin() as connection:
        values = [{"id": task_id(number), "status": "pending", "result": {}} for number in range(count)]
        connection.execute(insert(NaiveTask), values)


def record(callback: Callback, session: Session) -> dict[str, str]:
    task = session.get(NaiveTask, callback.task_info.external_task_id)
    if task is None:
        raise HTTPException(status_code=404, detail="Task not found")
    task.status = callback.task_status
    task.result = callback.task_result
    task.updated_at = datetime.now(UTC)
    session.add(task)
    session.add(
        NaiveObservation(task_id=task.id, status=callback.task_status, body=callback.model_dump(), at=datetime.now(UTC))
    )
    session.commit()
    return {"status": "recorded"}


def create_app(engine: Engine, style: str) -> FastAPI:
    """Create the app. ``style`` is the kind of function of the handler."""
    app = FastAPI()

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    one_session = Annotated[Session, Depends(get_session)]
    if style == "async":

        @app.post(PATH)
        async def receive_on_the_loop(callback: Callback, session: one_session) -> dict[str, str]:
            return record(callback, session)

    else:

        @app.post(PATH)
        def receive(callback: Callback, session: one_session) -> dict[str, str]:
            return record(callback, session)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("style", choices=("def", "async"))
    parser.add_argument("tasks", type=int)
    chosen = parser.parse_args()
    naive_engine = engine_of(chosen.url)
    write_tasks(naive_engine, chosen.tasks)
    serve(create_app(naive_engine, chosen.style))
