"""Tests of how each answer to a create request is read: docs/reference/create-answers.md as a table."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tracker.model.untrusted import JsonValue
from tracker.providers.base import (
    BadCredential,
    Busy,
    Duplicate,
    NoSuchCall,
    Rejected,
    Reply,
    SubmitOutcome,
    Unknown,
)
from tracker.providers.kling import Kling

EXTERNAL_ID = "hm01k9tsv5me8kq3x1w7c0b2n4ra"
HTML = {"content-type": "text/html"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One answer and its expected outcome. For a refusal, also the code that the client gets."""

    status: int
    body: JsonValue | bytes
    means: type[SubmitOutcome] | Any
    code: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


def openai(message: str, code: JsonValue = None, kind: str = "new_api_error") -> JsonValue:
    """Return an error object in the format of OpenAI and of many gateways."""
    return {"error": {"message": message, "type": kind, "param": "", "code": code}}


def new_api(code: str, message: str) -> JsonValue:
    """Return an error in the format of new-api for tasks."""
    return {"code": code, "message": message, "data": None}


PAGE = b"<html><body>Sign in</body></html>"
ROWS = {
    # ---- 401: no task was created
    "401 error object": Row(status=401, body=openai("Invalid token", "invalid_api_key"), means=BadCredential),
    "401 message": Row(status=401, body=new_api("access_denied", "no such key"), means=BadCredential),
    "401 bare": Row(status=401, body={"error": "unauthorized"}, means=BadCredential),
    "401 its own code": Row(status=401, body={"code": 401, "message": "no"}, means=BadCredential),
    "401 page": Row(status=401, body=PAGE, means=BadCredential, headers=HTML),
    "401 empty": Row(status=401, body=b"", means=BadCredential),
    # ---- 429: refused before processing
    "429 error object": Row(status=429, body=openai("slow down", "rate_limit_exceeded"), means=Busy, code=1302),
    "429 upstream full": Row(status=429, body=openai("当前分组上游负载已饱和", ""), means=Busy, code=1302),
    "429 bare": Row(status=429, body={"detail": "slow down"}, means=Busy, code=1302),
    "429 page": Row(status=429, body=PAGE, means=Busy, code=1302, headers=HTML),
    # ---- no such path
    "404 error object": Row(status=404, body=openai("Invalid URL (POST /v1/images/omni-image)", ""), means=NoSuchCall),
    "404 page": Row(status=404, body=PAGE, means=NoSuchCall, headers=HTML),
    "404 list": Row(status=404, body=[1203], means=NoSuchCall),
    "404 empty": Row(status=404, body=b"", means=NoSuchCall),
    "404 its own code": Row(status=404, body={"code": 404, "message": "not found"}, means=NoSuchCall),
    "405": Row(status=405, body=openai("Method Not Allowed", "method_not_allowed"), means=NoSuchCall),
    "301": Row(status=301, body=b"", means=NoSuchCall, headers={"location": "https://gateway.example/login"}),
    "302 page": Row(status=302, body=PAGE, means=NoSuchCall, headers=HTML | {"location": "/login"}),
    "307": Row(status=307, body=b"", means=NoSuchCall),
    "308": Row(status=308, body=b"", means=NoSuchCall),
    # ---- a gateway refuses this request
    "404 model": Row(status=404, body=openai("The model does not exist", "model_not_found"), means=Rejected, code=1203),
    "400": Row(status=400, body=openai("prompt is too long", "invalid_prompt"), means=Rejected, code=1201),
    "400 message": Row(status=400, body=new_api("invalid_request", "model is required"), means=Rejected, code=1201),
    "400 from the upstream": Row(
        status=400,
        body=new_api("fail_to_fetch_task", '{"code":1201,"message":"n is 1 to 9"}'),
        means=Rejected,
        code=1201,
    ),
    "402": Row(status=402, body=openai("please top up", "payment_required"), means=Rejected, code=1102),
    "403 quota": Row(status=403, body=openai("用户额度不足", "insufficient_user_quota"), means=Rejected, code=1102),
    "403 quota failed": Row(
        status=403, body=new_api("pre_consume_token_quota_failed", "no quota left"), means=Rejected, code=1102
    ),
    "403 other": Row(status=403, body=openai("this group may not use it", "access_denied"), means=Rejected, code=1103),
    "413": Row(status=413, body=openai("body too large", "too_large"), means=Rejected, code=1200),
    "422": Row(status=422, body=openai("n must be a number", "validation"), means=Rejected, code=1201),
    "451": Row(status=451, body=openai("not in your country", "region"), means=Rejected, code=1301),
    # ---- the external ID is taken: Homing never sends the request again
    "400 taken": Row(
        status=400, body=openai(f"External_task_id {EXTERNAL_ID} already exists", "invalid_request"), means=Duplicate
    ),
    "400 taken, renamed": Row(
        status=400, body=new_api("fail_to_fetch_task", "External_task_id gw-7 already exists"), means=Duplicate
    ),
    "500 taken": Row(status=500, body=openai(f"upstream: dup {EXTERNAL_ID}"), means=Duplicate),
    # ---- the outcome is unknown
    "400 upstream": Row(status=400, body=openai("bad response from upstream", "bad_response"), means=Unknown),
    "400 time-out": Row(status=400, body=new_api("do_request_failed", "context deadline: timeout"), means=Unknown),
    "400 reply unread": Row(status=400, body=new_api("read_response_body_failed", "EOF"), means=Unknown),
    "400 task failed": Row(status=400, body=new_api("task_failed", "empty id"), means=Unknown),
    "400 quota upstream": Row(status=400, body=openai("upstream timeout while checking balance"), means=Unknown),
    "400 without message": Row(status=400, body={"error": {"code": "invalid"}}, means=Unknown),
    "400 page": Row(status=400, body=PAGE, means=Unknown, headers=HTML),
    "403 page": Row(status=403, body=PAGE, means=Unknown, headers=HTML),
    "403 empty": Row(status=403, body=b"", means=Unknown),
    "408": Row(status=408, body=openai("request timeout", "timeout"), means=Unknown),
    "409": Row(status=409, body=openai("conflict", "conflict"), means=Unknown),
    "499": Row(status=499, body=openai("client closed", "canceled"), means=Unknown),
    "424": Row(status=424, body=openai("dependency", "dependency"), means=Unknown),
    "303": Row(status=303, body=b"", means=Unknown, headers={"location": "/v1/images/omni-image/1"}),
    "304": Row(status=304, body=b"", means=Unknown),
    "500": Row(status=500, body=openai("internal", "server_error"), means=Unknown),
    "503 no channel": Row(status=503, body=openai("no channel for model kling", "model_not_found"), means=Unknown),
    "503 quota": Row(status=503, body=openai("quota", "insufficient_user_quota"), means=Unknown),
    "200 error object": Row(status=200, body=openai("quota", "insufficient_user_quota"), means=Unknown),
    "200 page": Row(status=200, body=PAGE, means=Unknown, headers=HTML),
    "200 empty": Row(status=200, body=b"", means=Unknown),
    "200 another API": Row(status=200, body={"id": "task_1", "status": "queued"}, means=Unknown),
    "404 with a code of Kling's": Row(status=404, body={"code": 5000, "message": "?"}, means=Unknown),
    "405 with a code of Kling's": Row(status=405, body={"code": 1202, "message": "?"}, means=Unknown),
}


def read(row: Row) -> SubmitOutcome:
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    return Kling().read_submit(Reply(status=row.status, headers=row.headers, body=body), external_id=EXTERNAL_ID)


@pytest.mark.parametrize("name", ROWS)
def test_create_answer_matches_the_table(name: str) -> None:
    row = ROWS[name]
    outcome = read(row)

    assert isinstance(outcome, row.means), outcome
    if isinstance(outcome, Rejected | Busy):
        assert (outcome.http_status, outcome.code) == (row.status, row.code)
        assert outcome.message
    if isinstance(outcome, Unknown | NoSuchCall | Duplicate):
        # Clients can read this reason, so it must not contain text from the answer.
        assert outcome.why.startswith(f"HTTP {row.status}")
        assert not any(text in outcome.why for text in ("upstream", "Sign in", "login", "额度"))


@pytest.mark.parametrize("body", [b"", PAGE, b"{}", b'{"error": {}}', b'{"message": "no"}', b'{"code": "x"}'])
def test_unreadable_create_answer_is_rarely_an_error(body: bytes) -> None:
    """An unreadable answer is an error only for statuses that a provider sends before it creates a task."""
    outcomes = {status: type(read(Row(status=status, body=body, means=Unknown))) for status in range(200, 600)}

    known = {status: outcome for status, outcome in outcomes.items() if outcome is not Unknown}
    absent = dict.fromkeys((301, 302, 307, 308, 404, 405), NoSuchCall)
    assert known == absent | {401: BadCredential, 429: Busy}


def test_unknown_create_answer_keeps_an_excerpt() -> None:
    outcome = read(ROWS["400 upstream"])

    assert isinstance(outcome, Unknown)
    assert outcome.excerpt == "bad response from upstream"
