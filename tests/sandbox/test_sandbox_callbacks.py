import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from homing.sandbox import RunningSandbox, SandboxSettings, serve_in_thread
from tests.support.conditions import result_of

Start = Callable[..., RunningSandbox]
SECRET = "whsec_bWFkZSB1cCBmb3IgdGhlc2UgdGVzdHM="
NEXT_SECRET = "whsec_dGhlIG9uZSBhZnRlciB0aGUgcm90YXRpb24="


@dataclass
class Inbox:
    """A web server that records the requests it gets. It returns `answers` first, then 200.

    `patience` is how long (seconds) it holds a request to let another one overlap.
    """

    url: str = ""
    answers: list[int] = field(default_factory=list)
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    patience: float = 0.0
    inside: int = 0
    overlap: threading.Event = field(default_factory=threading.Event)

    def statuses(self) -> list[str]:
        return [json.loads(body)["task_status"] for _, _, body in self.received]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    box = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            box.inside += 1
            if box.inside > 1:
                box.overlap.set()
            box.overlap.wait(box.patience)
            box.inside -= 1
            box.received.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(box.answers.pop(0) if box.answers else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        box.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield box
        server.shutdown()
        thread.join()


def create(sandbox: RunningSandbox, target: str) -> str:
    reply = httpx.post(
        f"{sandbox.base_url}/v1/images/omni-image",
        json={"prompt": "a cat", "callback_url": target},
        headers=sandbox.headers,
        verify=False,
        timeout=60,
    )
    task_id: str = reply.json()["data"]["task_id"]
    return task_id


def ended_row(sandbox: RunningSandbox, task_id: str) -> dict[str, Any]:
    """Return the task's row after the task has ended and no callback is in flight."""

    def row() -> dict[str, Any] | None:
        found = sandbox.task(task_id)
        waiting = any(callback["state"] == "waiting" for callback in found["callbacks"])
        return found if found["final"] and not waiting else None

    return dict(result_of(row))


def verifies(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except (WebhookVerificationError, ValueError):  # the library fails on a malformed header
        return False
    return True


def test_callbacks_are_posted_in_order_unsigned(kling_sandbox: RunningSandbox, inbox: Inbox) -> None:
    task_id = create(kling_sandbox, f"{inbox.url}/here")
    row = ended_row(kling_sandbox, task_id)
    assert inbox.statuses() == ["submitted", "processing", "succeed"]
    assert {path for path, _, _ in inbox.received} == {"/here"}
    for _, headers, _ in inbox.received:
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert not {name for name in headers if name.startswith("webhook-")}
    assert [callback["state"] for callback in row["callbacks"]] == ["delivered"] * 3
    assert kling_sandbox.ledger["callbacks"]["by_kind"] == {"genuine": 3}


def test_rotation_signs_with_both_secrets(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET, NEXT_SECRET))
    ended_row(sandbox, create(sandbox, inbox.url))
    for _, headers, body in inbox.received:
        assert len(headers["webhook-signature"].split()) == 2
        assert verifies(SECRET, headers, body)
        assert verifies(NEXT_SECRET, headers, body)


def test_refused_callback_is_retried_with_same_id(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    inbox.answers = [503, 503]
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,), intermediate=False, callback_backoff=0.01)
    row = ended_row(sandbox, create(sandbox, inbox.url))
    assert len({headers["webhook-id"] for _, headers, _ in inbox.received}) == 1
    (callback,) = row["callbacks"]
    assert callback["state"] == "delivered"
    assert [attempt["answer"] for attempt in callback["attempts"]] == [503, 503, 200]


def test_callback_retries_end_after_limit(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    inbox.answers = [500] * 9
    sandbox = kling_sandbox_factory(intermediate=False, callback_backoff=0.01, callback_attempts=2)
    (callback,) = ended_row(sandbox, create(sandbox, inbox.url))["callbacks"]
    assert (callback["state"], len(callback["attempts"])) == ("refused", 2)


def test_unreachable_callback_url_is_recorded(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(intermediate=False, callback_attempts=1)
    row = ended_row(sandbox, create(sandbox, "http://127.0.0.1:9/nobody"))
    (callback,) = row["callbacks"]
    assert (callback["state"], callback["attempts"][0]["error"]) == ("refused", "ConnectError")


def test_callbacks_can_be_off(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(callbacks=False)
    assert ended_row(sandbox, create(sandbox, inbox.url))["callbacks"] == []


def test_lost_callbacks_are_never_sent(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(faults={"callback_lost": 1})
    row = ended_row(sandbox, create(sandbox, inbox.url))
    assert [(callback["kind"], callback["attempts"]) for callback in row["callbacks"]] == [("lost", [])] * 3
    assert inbox.received == []


def test_late_callback_comes_last(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(faults={"callback_late": 1, "callback_out_of_order": 1}, late_by=0.1)
    ended_row(sandbox, create(sandbox, inbox.url))
    assert inbox.statuses() == ["submitted", "succeed", "processing"]


def test_callbacks_of_a_task_stay_in_order(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    inbox.patience = 0.1
    sandbox = kling_sandbox_factory(run_time=0)
    ended_row(sandbox, create(sandbox, inbox.url))
    assert inbox.statuses() == ["submitted", "processing", "succeed"]
    assert not inbox.overlap.is_set()


def test_replay_keeps_timestamp_and_signature(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(
        webhook_secrets=(SECRET,), held=True, faults={"callback_replayed": 1}, intermediate=False
    )
    first, second = create(sandbox, f"{inbox.url}/first"), create(sandbox, f"{inbox.url}/second")
    sandbox.finish(first)
    ended_row(sandbox, first)
    sent = int(inbox.received[0][1]["webhook-timestamp"])
    result_of(lambda: time.time() >= sent + 1)
    sandbox.process(second)
    result_of(lambda: len(inbox.received) == 2)
    genuine, copied = (
        {name: value for name, value in headers.items() if name.startswith("webhook-")}
        for _, headers, _ in inbox.received
    )
    assert copied == genuine


def test_replay_is_genuine_at_the_wrong_url(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(
        webhook_secrets=(SECRET,), held=True, faults={"callback_replayed": 1}, intermediate=False
    )
    first, second = create(sandbox, f"{inbox.url}/first"), create(sandbox, f"{inbox.url}/second")
    sandbox.process(second)
    sandbox.finish(first)
    result_of(lambda: len(inbox.received) == 2)
    (here, genuine, original), (there, copied, copy) = inbox.received
    assert (here, there, copy) == ("/first", "/second", original)
    assert verifies(SECRET, copied, copy)
    assert copied["webhook-id"] == genuine["webhook-id"]
    (replay,) = sandbox.task(second)["callbacks"]
    assert (replay["kind"], replay["about"], replay["target"]) == ("replayed", first, f"{inbox.url}/second")
    result_of(lambda: sandbox.ledger["callbacks"]["replays_sent"] == 1)


def test_forgeries_are_refused_or_sent_elsewhere(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,), run_time=0.02, faults={"callback_forged": 1})
    ids = [create(sandbox, f"{inbox.url}/{number:032}") for number in range(12)]
    rows = {task_id: ended_row(sandbox, task_id) for task_id in ids}
    forged = [c for row in rows.values() for c in row["callbacks"] if c["kind"] == "forged"]
    assert len(forged) == len(ids)
    assert sandbox.ledger["callbacks"]["forgeries_sent"] == len(ids)
    verified = [(path, json.loads(body)) for path, headers, body in inbox.received if verifies(SECRET, headers, body)]
    for path, body in verified:
        row = rows[body["task_id"]]
        assert path == row["callback_url"].removeprefix(inbox.url)
        assert body["task_status"] in {state["status"] for state in row["states"]}


def test_steered_callback_has_the_given_body(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,), held=True, callbacks=False)
    task_id = create(sandbox, f"{inbox.url}/own")
    sent = sandbox.callback(
        task_id,
        status="failed",
        shape="new",
        seal="wrong_key",
        webhook_id="42",
        target=f"{inbox.url}/other",
        changes={"message": "a lie"},
    )
    assert (sent["kind"], sent["seal"], sent["webhook_id"]) == ("steered", "wrong_key", "42")
    result_of(lambda: sandbox.task(task_id)["callbacks"][0]["state"] == "delivered")
    ((path, headers, body),) = inbox.received
    report = json.loads(body)
    assert (path, headers["webhook-id"]) == ("/other", "42")
    assert (report["id"], report["status"], report["message"]) == (task_id, "failed", "a lie")
    assert not verifies(SECRET, headers, body)
    assert sandbox.task(task_id)["status"] == "submitted"


def test_silent_end_sends_no_callback(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(held=True, intermediate=False)
    task_id = create(sandbox, inbox.url)
    sandbox.finish(task_id, notify=False)
    sandbox.callback(task_id)
    result_of(lambda: inbox.received)
    assert inbox.statuses() == ["succeed"]
    assert [callback["kind"] for callback in sandbox.task(task_id)["callbacks"]] == ["steered"]


def test_callback_may_precede_create_reply(inbox: Inbox) -> None:
    # The reply arrives when the sandbox stops.
    settings = SandboxSettings(faults={"slow": 1}, slow_by=60, run_time=0.02)
    with serve_in_thread(settings) as sandbox:
        asking = threading.Thread(target=create, args=(sandbox, inbox.url))
        asking.start()
        result_of(lambda: inbox.statuses() == ["submitted", "processing", "succeed"])
        assert asking.is_alive()
    asking.join(10)
    assert not asking.is_alive()


def test_full_queue_leaves_callbacks_unsent(kling_sandbox_factory: Start, inbox: Inbox) -> None:
    sandbox = kling_sandbox_factory(
        held=True, intermediate=False, max_pending_callbacks=1, faults={"callback_doubled": 1}
    )
    task_id = create(sandbox, inbox.url)
    sandbox.finish(task_id)
    states = [callback["state"] for callback in ended_row(sandbox, task_id)["callbacks"]]
    assert states == ["delivered", "unsent"]
