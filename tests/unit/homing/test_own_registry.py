"""A program that embeds Homing may define SQLModel tables with the same names."""

import subprocess
import sys
from pathlib import Path

import pytest

HOST = """
from sqlmodel import Field, Relationship, Session, SQLModel, create_engine, select

class TaskRow(SQLModel, table=True):
    __tablename__ = "tasks"
    id: int | None = Field(default=None, primary_key=True)
    events: list["EventRow"] = Relationship(back_populates="task")

class EventRow(SQLModel, table=True):
    __tablename__ = "events"
    id: int | None = Field(default=None, primary_key=True)
    task_id: int | None = Field(default=None, foreign_key="tasks.id")
    task: TaskRow | None = Relationship(back_populates="events")
"""
HOMING = """
import asyncio
from homing.serve import Homing
from tracker.settings import Settings

async def run():
    async with Homing(Settings(database_url="sqlite:///homing.db")):
        pass
"""
USE = """
asyncio.run(run())
engine = create_engine("sqlite:///host.db")
SQLModel.metadata.create_all(engine)
with Session(engine) as session:
    session.add(TaskRow(events=[EventRow()]))
    session.commit()
    assert session.exec(select(EventRow)).one().task.id == 1
print(*sorted(SQLModel.metadata.tables))
"""


@pytest.mark.parametrize("program", [HOST + HOMING, HOMING + HOST], ids=["host first", "Homing first"])
def test_host_tables_of_same_names_do_not_clash(tmp_path: Path, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program + USE], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["events", "tasks"]
