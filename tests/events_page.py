"""The examples of docs/reference/events.md, made from code: run ``python -m tests.events_page``."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from tests.support.builders import NOW
from tracker.api.events import frame
from tracker.model.event import PublishedEvent, structured
from tracker.model.facts import asset_to_json
from tracker.model.records import AlarmCount
from tracker.model.task import Alarm, Asset, Fact, Precedence, Source, Status, Task, Trust

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "events.md"
# A marker, and the block of code behind it.
BLOCK: Final = re.compile(r"(<!-- made by tests/events_page.py: ([a-z ]+) -->\n\n```\w+\n)(.*?)(```\n)", re.DOTALL)
SOURCE: Final = "https://homing.example.com"
PRECEDENCE: Final = Precedence(rank=5, success=True)
ASSET: Final = Asset(kind="image", url="https://results.example/1.png", expires_at=NOW + timedelta(days=30))
TASK: Final = Task(
    id="hm01m9qj6p00c5t3m8e4x2v7k1sd",
    provider="kling",
    kind="images/omni-image",
    account="default",
    client="studio",
    origin="submit",
    created_at=NOW - timedelta(seconds=42),
    updated_at=NOW,
    submitted_at=NOW - timedelta(seconds=41),
    finished_at=NOW,
    last_observed_at=NOW,
    deadline_at=NOW + timedelta(hours=24),
    status=Status.SUCCEEDED,
    version=3,
    provider_task_id="881236071234",
    external_id="order-17",
    model="kling-v3-omni",
    tags=("spring",),
    metadata={"customer": "4711"},
    request={"prompt": "a red bicycle", "model_name": "kling-v3-omni"},
    precedence=PRECEDENCE,
    facts={
        "assets": Fact(precedence=PRECEDENCE, value=[asset_to_json(ASSET)]),
        "price": Fact(precedence=PRECEDENCE, value={"final_unit_deduction": "8"}),
    },
    status_source=Source.CALLBACK,
    status_trust=Trust.SIGNED,
    callback_requested=True,
)
SUCCEEDED: Final = PublishedEvent(cursor=4711, type="homing.task.succeeded", sequence=3, at=NOW, task=TASK)
SOUNDED: Final = PublishedEvent(
    cursor=4712,
    type="homing.alarm.mismatch",
    sequence=1,
    at=NOW,
    alarm=AlarmCount(
        kind=Alarm.MISMATCH,
        provider="kling",
        hour=NOW.replace(minute=0, second=0),
        count=1,
        last_at=NOW,
        task_id=TASK.id,
        detail="the callback names another task of the provider",
    ),
)


def _document(event: PublishedEvent) -> str:
    return json.dumps(json.loads(structured(event, SOURCE)), indent=2) + "\n"


def _stream() -> str:
    event = frame(SOUNDED, SOURCE).decode().rstrip("\n")
    return f": homing\nretry: 2000\nid: 4711\n\n{event}\n\n:\nid: 4750\n\n"


def _page() -> str:
    event = json.loads(structured(SOUNDED, SOURCE))
    return json.dumps({"events": [event], "next": SOUNDED.cursor, "more": False}, indent=2) + "\n"


EXAMPLES: Final[Mapping[str, Callable[[], str]]] = {
    "a task": lambda: _document(SUCCEEDED),
    "an alarm": lambda: _document(SOUNDED),
    "a stream": _stream,
    "a page": _page,
}


def page(text: str) -> str:
    """Return the page with its examples as they have to be."""
    return BLOCK.sub(lambda found: found[1] + EXAMPLES[found[2]]() + found[4], text)


def shown(text: str) -> list[str]:
    """Return the names of the examples that a page has."""
    return [found[1] for found in BLOCK.findall(text)]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
