"""docs/how-to/add-a-sink.md names what exists: methods, fields, the line in the registry, files."""

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


def test_every_verb_of_a_sink_has_its_row() -> None:
    verbs = {name for name in vars(Sink) if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == verbs


def test_every_field_of_an_outcome_and_of_a_type_is_explained() -> None:
    assert {*Outcome.__struct_fields__} - {"delivered"} <= WORDS
    assert {field.name for field in fields(SinkType)} <= WORDS


def test_the_line_that_is_shown_stands_in_the_registry() -> None:
    (line,) = re.findall(r"^\"\w+\": SinkType.*$", PAGE, re.MULTILINE)
    assert line in Path(urls.__file__).read_text()


def test_what_a_case_has_to_bring_is_there() -> None:
    assert {"start", "kill", "got", "refuse", "hold"} <= WORDS & {*vars(SinkCase)}
    assert issubclass(PipeCase, SinkCase)


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:tracker|tests|docs)/[\w./-]+)`", PAGE)
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []
