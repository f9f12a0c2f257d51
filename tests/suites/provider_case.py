"""The provider-specific part of the shared suite: the provider, its samples, and how to mutate them.

The path of a sample below ``tests/samples/<name>/`` says how it must be parsed:

    submit/<outcome>/*.http   query/<outcome>/*.http   batch/<outcome>/*.http   list/<outcome>/*.http
    callback/<task status, or unknown-status, or unreadable>/*.json

An ``.http`` file is a raw reply: status line, headers, empty line, body.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.kling_examples import a_query
from tracker.model.task import Report
from tracker.model.untrusted import JsonObject
from tracker.providers.base import (
    Accepted,
    BadCredential,
    Busy,
    Call,
    Credential,
    Duplicate,
    Found,
    ListOutcome,
    ManyOutcome,
    Missing,
    NoSuchCall,
    Order,
    Page,
    Provider,
    Rejected,
    Reply,
    Unknown,
    Unsupported,
)

SUBMIT_OUTCOMES = (Accepted, Rejected, Busy, BadCredential, Duplicate, NoSuchCall, Unknown)
QUERY_OUTCOMES = (Found, Missing, Busy, BadCredential, Unknown, Unsupported)
MANY_OUTCOMES = (list, tuple, Busy, BadCredential, Unknown, Unsupported)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCase:
    """One provider under test. ``task_id`` and ``external_id`` are the IDs in its samples.

    ``body`` is a client's request body of ``kind`` (and ``model``, if the path has one) with external ID ``client_id``
    (None if the kind takes none) and the client's own callback URL;
    ``bad`` maps a text that the refusal must contain to fields that make the body unusable.
    """

    provider: Provider
    samples: Path
    kind: str
    model: str = ""
    body: JsonObject
    client_id: str | None
    client_callback_url: str
    bad: tuple[tuple[str, JsonObject], ...]
    credentials: Mapping[str, Credential]
    task_id: str
    external_id: str

    @property
    def takes_external_id(self) -> bool:
        return self.provider.kinds[self.kind].takes_external_id

    def order(self) -> Order:
        return self.provider.order(self.kind, self.body, model=self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One recorded answer or delivery, and how it is to be read."""

    case: ProviderCase = field(repr=False)
    reading: str
    expected: str
    path: Path

    def __str__(self) -> str:
        return f"{self.case.provider.name}/{self.reading}/{self.expected}/{self.path.stem}"

    def reply(self) -> Reply:
        head, _, body = self.path.read_bytes().partition(b"\n\n")
        first, *lines = head.decode().splitlines()
        headers = dict(line.split(": ", 1) for line in lines)
        return Reply(status=int(first.split()[1]), headers={k.lower(): v for k, v in headers.items()}, body=body)


def samples_of(case: ProviderCase, reading: str = "*") -> Iterator[Sample]:
    for path in sorted(case.samples.glob(f"{reading}/*/*.*")):
        yield Sample(case=case, reading=path.parts[-3], expected=path.parts[-2], path=path)


def readings(case: ProviderCase) -> Mapping[str, tuple[Callable[[Reply], object], tuple[type[object], ...]]]:
    """Return each way to read a reply, and the types it may answer."""
    provider = case.provider
    return {
        "submit": (lambda reply: provider.read_submit(reply, external_id=case.external_id), SUBMIT_OUTCOMES),
        "query": (lambda reply: _read_query(case, reply), QUERY_OUTCOMES),
        "batch": (provider.read_query_many, MANY_OUTCOMES),
        "list": (lambda reply: _found(provider.read_list(reply, case.kind, None)), MANY_OUTCOMES),
        "callback": (lambda reply: provider.read_callback(reply.body), (Report,)),
    }


def single_query(case: ProviderCase, task_id: str) -> Call:
    call = case.provider.query(a_query(task_id, kind=case.kind))
    assert call is not None
    return call


def _found(outcome: ListOutcome) -> ManyOutcome:
    return outcome.found if isinstance(outcome, Page) else outcome


def _read_query(case: ProviderCase, reply: Reply) -> object:
    by_id = case.provider.read_query(reply, a_query(case.task_id))
    by_external_id = case.provider.read_query(reply, a_query(case.external_id, external=True))
    assert isinstance(by_external_id, QUERY_OUTCOMES)
    return by_id


def reports_in(outcome: object) -> Iterator[Report]:
    if isinstance(outcome, list | tuple):
        for each in outcome:
            yield from reports_in(each)
    elif isinstance(outcome, Report):
        yield outcome
    elif isinstance(outcome, Accepted | Found):
        yield outcome.report


def calls(case: ProviderCase) -> Iterator[Call]:
    provider, kind = case.provider, case.kind
    yield provider.submit(case.order(), external_id=case.external_id, callback_url=None)
    yield single_query(case, case.task_id)
    if provider.capabilities.batch_size:
        yield provider.query_many([case.task_id])
    if provider.capabilities.lists_tasks:
        yield provider.list_page(kind, None)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=6,
)
statuses = st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 408, 429, 499, 500, 502, 503, 504])


@st.composite
def mutated(draw: st.DrawFn, body: bytes) -> bytes:
    """Replace values somewhere in a JSON body, or bytes anywhere in it."""
    try:
        root = json.loads(body)
    except ValueError:
        root = None
    if root is None or draw(st.booleans()):
        at = draw(st.integers(0, len(body)))
        return body[:at] + draw(st.binary(max_size=4)) + body[at + draw(st.integers(0, 4)) :]
    for _ in range(draw(st.integers(1, 3))):
        holder: dict[Any, Any] = {"": root}
        node: Any = holder
        key: Any = ""
        while isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        node[key] = draw(json_values)
        root = holder[""]
    return json.dumps(root).encode()
