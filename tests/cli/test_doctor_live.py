"""`homing doctor --live`: one real task at the sandbox, compared with what Homing assumes."""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.support.brokers.servers import free_port
from tests.support.cli_process import Shell

Sandboxes = Callable[..., RunningSandbox]
SECRET = "whsec_" + b64encode(b"a made-up secret of the live test").decode()
LIVE = ("doctor", "--live", "--spend-at-most", "0.25", "--yes", "--json")


def shell_for(folder: Path, sandbox: RunningSandbox, **settings: str) -> Shell:
    usual = {
        "kling_base_url": sandbox.base_url,
        "kling_api_key": sandbox.api_key,
        "first_poll_delay": "500ms",
        "allowed_targets": "127.0.0.0/8",
    }
    return Shell(folder, usual | settings)


def levels(document: Any) -> dict[str, str]:
    return {each["name"]: each["level"] for each in document["live"]}


def test_live_check_with_server_compares_callbacks(tmp_path: Path, kling_sandbox_factory: Sandboxes) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    shell = shell_for(tmp_path, sandbox, public_url=url, kling_webhook_secrets=SECRET, port=str(port))

    with shell.serving(port=str(port)):
        checked = shell.run(*LIVE)

    assert checked.status == 0, checked.err or checked.out
    assert set(levels(checked.document).values()) == {"ok"}, checked.out
    [made] = sandbox.ledger["tasks"]
    assert made["kind"] == "audio/text-to-audio"
    for named in (made["id"], made["external_id"], sandbox.api_key, SECRET, *made["result_urls"]):
        assert named not in checked.out


def test_live_check_without_server_skips_callbacks(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    checked = shell_for(tmp_path, kling_sandbox).run(*LIVE)

    assert checked.status == 0, checked.err
    undecided = {name for name, level in levels(checked.document).items() if level == "note"}
    assert undecided == {"callbacks", "signature"}


def test_live_check_of_another_provider_is_wrong(tmp_path: Path, kling_sandbox_factory: Sandboxes) -> None:
    sandbox = kling_sandbox_factory(faults={"lookup_denied": 1.0})

    checked = shell_for(tmp_path, sandbox).run(*LIVE)

    assert checked.status == 1
    assert levels(checked.document)["query by external ID"] == "wrong"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--live",), 2, "Say how much it may cost, such as --spend-at-most 0.25"),
        (("--live", "--spend-at-most", "0.2", "--yes"), 2, "the cheapest task costs 0.25 units"),
        (("--live", "--spend-at-most", "much", "--yes"), 2, "an amount in units, such as 0.25"),
        (("--live", "--spend-at-most", "0.25"), 2, "Add --yes to send the task without a question"),
        (("--live", "--spend-at-most", "0.25", "--json"), 2, "Add --yes to send the task without one"),
    ],
)
def test_live_check_without_consent_sends_nothing(
    tmp_path: Path, kling_sandbox: RunningSandbox, arguments: tuple[str, ...], status: int, said: str
) -> None:
    refused = shell_for(tmp_path, kling_sandbox).run("doctor", *arguments)

    assert refused.status == status
    assert said in refused.err
    assert kling_sandbox.ledger["tasks"] == []


@pytest.mark.parametrize(("answer", "count"), [("no", 0), ("yes", 1)])
def test_live_check_asks_before_it_sends(
    tmp_path: Path, kling_sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch, answer: str, count: int
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: answer)

    asked = shell_for(tmp_path, kling_sandbox).run("doctor", "--live", "--spend-at-most", "0.3")

    assert "0.25 units" in asked.out
    assert len(kling_sandbox.ledger["tasks"]) == count
    assert asked.status == int(not count)


def test_live_check_after_a_refused_credential_sends_nothing(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    shell = shell_for(tmp_path, kling_sandbox, kling_api_key="made-up-key-of-nobody")

    refused = shell.run("doctor", "--live", "--spend-at-most", "0.25", "--yes")

    assert (refused.status, kling_sandbox.ledger["tasks"]) == (1, [])
    assert "nothing was sent" in refused.err
