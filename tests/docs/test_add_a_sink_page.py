"""docs/how-to/add-a-sink.md matches the code: methods, fields, the registry line, files."""

import re
from dataclasses import fields
from pathlib import Path

from tests.suites.sink_case import SinkCase
from tests.suites.test_sinks import PipeCase
from tracker.delivery.sinks import urls
from tracker.delivery.sinks.base import Outcome, Sink
from tracker.delivery.sinks.urls import SinkType

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-a-sink.md").read_text()
WORDS = set(re.findall(r"`(\w+)`", PAGE))


def test_page_lists_every_sink_method() -> None:
    verbs = {name for name in vars(Sink) if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == verbs


def test_page_explains_outcome_and_type_fields() -> None:
    assert {*Outcome.__struct_fields__} - {"delivered"} <= WORDS
    assert {field.name for field in fields(SinkType)} <= WORDS


def test_page_registry_line_is_in_the_registry() -> None:
    (line,) = re.findall(r"^\"\w+\": SinkType.*$", PAGE, re.MULTILINE)
    assert line in Path(urls.__file__).read_text()


def test_page_case_requirements_exist() -> None:
    assert {"start", "kill", "got", "refuse", "hold"} <= WORDS & {*vars(SinkCase)}
    assert issubclass(PipeCase, SinkCase)


def test_page_files_exist() -> None:
    named = re.findall(r"`((?:tracker|tests|docs)/[\w./-]+)`", PAGE)
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []
