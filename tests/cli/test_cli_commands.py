"""The data commands, with and without a running server."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from homing.sandbox import RunningSandbox
from homing.server.serving_lock import ServingLock
from tests.support.cli_process import Shell

Sandboxes = Callable[..., RunningSandbox]
CLIENT_SECRET = "made-up-client-secret-of-at-least-32-bytes"


@pytest.fixture
def shell(tmp_path: Path, kling_sandbox: RunningSandbox) -> Shell:
    return Shell(
        tmp_path,
        {
            "kling_base_url": kling_sandbox.base_url,
            "kling_api_key": kling_sandbox.api_key,
            "first_poll_delay": "500ms",
        },
    )


def another(shell: Shell) -> Shell:
    """Return a second Homing with the same provider and its own database."""
    settings = {name: value for name, value in shell.settings.items() if name != "database_url"}
    return Shell(shell.directory / "elsewhere", settings)


def test_command_without_server_does_the_work(shell: Shell, kling_sandbox: RunningSandbox) -> None:
    sent = shell.run("submit", "--prompt", "a cat", "--n", "2", "--external-id", "cat/ü", "--wait", "--json")
    assert sent.status == 0, sent.err
    task = sent.document
    assert task["status"] == "succeeded"
    assert task["status_source"]["source"] == "poll"
    assert task["request"]["prompt"] == "a cat"
    [made] = kling_sandbox.ledger["tasks"]
    assert [asset["url"] for asset in task["result"]["assets"]] == made["result_urls"]
    for name in (task["id"], task["provider_task_id"], "cat/ü"):
        assert shell.run("tasks", "show", name, "--json").document["id"] == task["id"]


def test_task_is_expected_attached_and_resolved(shell: Shell) -> None:
    shell.run("migrate")
    assert shell.run("tasks").out == "No tasks.\n"
    expected = shell.run("expect", "kling", "images/omni-image", "--external-id", "mine", "--tag", "red", "--json")
    task_id = expected.document["task"]["id"]
    assert expected.document["callback_url"] is None
    assert [task["id"] for task in shell.run("tasks", "list", "--tag", "red", "--json").document["tasks"]] == [task_id]
    assert shell.run("tasks", "list", "--status", "failed", "--status", "succeeded", "--json").document["tasks"] == []
    assert "tasks attach" in shell.run("why", "mine").out
    resolved = shell.run("tasks", "resolve", "mine", "--status", "rejected", "--note", "never sent", "--json")
    assert resolved.document["status"] == "rejected"
    assert "operator" in shell.run("tasks", "history", "mine").out
    output = shell.run("why", "mine").out
    assert "never sent" in output
    assert "made no task" in output


def test_list_filters_with_and_without_verb(shell: Shell) -> None:
    for name in ("one", "two"):
        shell.run("expect", "kling", "images/omni-image", "--external-id", name, "--tag", name)
    shell.run("tasks", "resolve", "two", "--status", "rejected")
    for arguments in (
        ("tasks", "--status", "rejected", "--json"),
        ("tasks", "list", "--status", "rejected", "--json"),
        ("tasks", "--status", "rejected", "list", "--json"),
        ("tasks", "--json", "--tag", "two", "list", "--status", "rejected"),
        ("tasks", "--tag", "one", "--json", "list", "--tag", "two"),
    ):
        assert [task["external_id"] for task in shell.run(*arguments).document["tasks"]] == ["two"], arguments
    assert len(shell.run("tasks", "--json").document["tasks"]) == 2


def test_submitted_task_is_found_by_tags(shell: Shell) -> None:
    sent = shell.run("submit", "--prompt", "a cat", "--tag", "frühling", "--tag", "a,b", "--json").document
    assert sent["tags"] == ["frühling", "a,b"]
    for tag in ("frühling", "a,b"):
        assert [task["id"] for task in shell.run("tasks", "list", "--tag", tag, "--json").document["tasks"]] == [
            sent["id"]
        ]
    assert shell.run("tasks", "list", "--tag", "a", "--json").document["tasks"] == []


@pytest.mark.parametrize("way", ["text", "file", "standard input", "body file"])
def test_input_is_read_in_each_way(shell: Shell, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    wanted = {"prompt": "ein Kätzchen", "model_name": "kling-v3-omni", "n": 2, "external_task_id": "mine-1"}
    file = shell.directory / "input.json"
    file.write_text(json.dumps(wanted))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(wanted).encode())))
    arguments = {
        "text": ("--input", json.dumps(wanted)),
        "file": ("--input", f"@{file}"),
        "standard input": ("--input", "-"),
        "body file": ("--body", str(file)),
    }

    sent = shell.run("submit", *arguments[way], "--n", "1", "--json").document

    assert (sent["kind"], sent["external_id"], sent["model"]) == ("images/omni-image", "mine-1", "kling-v3-omni")
    assert sent["request"] == {"prompt": "ein Kätzchen", "model_name": "kling-v3-omni", "n": 1}


def test_any_kind_is_submitted_and_found_by_metadata(shell: Shell) -> None:
    wanted = ("--provider", "kling", "--kind", "text-to-video", "--input", '{"prompt": "a cat"}')
    options = ("--model", "kling-3.0", "--metadata", "order=17", "--metadata", "note=a=b", "--deadline", "2h")
    sent = shell.run(
        "submit", *wanted, *options, "--callback-url", "https://client.example.com/done", "--json"
    ).document
    shell.run("submit", "--prompt", "a cat", "--model", "kling-v3-omni", "--metadata", "order=18")

    assert (sent["kind"], sent["model"]) == ("text-to-video", "kling-3.0")
    assert sent["metadata"] == {"order": "17", "note": "a=b"}
    for filters in (
        ("--metadata", "order=17"),
        ("--model", "kling-3.0"),
        ("--metadata", "note=a=b", "--metadata", "order=17", "--model", "kling-3.0"),
    ):
        found = shell.run("tasks", *filters, "--json").document["tasks"]
        assert [task["id"] for task in found] == [sent["id"]], filters
    shown = shell.run("tasks", "show", sent["id"]).out
    assert "order=17" in shown
    assert "kling-3.0" in shown


@pytest.mark.parametrize("options", [("--prompt", "a cat", "--image", "https://x.example/1.png"), ("--n", "2")])
def test_options_of_kling_are_refused_for_another_provider(shell: Shell, options: tuple[str, ...]) -> None:
    refused = shell.run("submit", "--provider", "replicate", "--kind", "predictions", *options)

    assert refused.status == 2
    assert f"only kling has {', '.join(options[::2])}. Write the fields of replicate into --input" in refused.err


def test_expected_task_has_metadata(shell: Shell) -> None:
    shell.run("expect", "kling", "images/omni-image", "--external-id", "mine", "--metadata", "order=17")

    [task] = shell.run("tasks", "--metadata", "order=17", "--json").document["tasks"]

    assert (task["external_id"], task["model"]) == ("mine", None)


def test_running_task_is_adopted_and_polled_by_command(shell: Shell, kling_sandbox_factory: Sandboxes) -> None:
    sandbox = kling_sandbox_factory(held=True)
    shell.settings["kling_base_url"] = sandbox.base_url
    with shell.serving():
        body = shell.directory / "body.json"
        body.write_text(json.dumps({"prompt": "a dog", "n": 1}))
        made = shell.run("submit", "--body", str(body), "--json").document
    elsewhere = another(shell)
    adopted = elsewhere.run("adopt", "kling", "images/omni-image", made["provider_task_id"], "--json")
    assert adopted.document["status"] == "submitted"
    sandbox.finish(made["provider_task_id"], status="failed", message="no dogs")
    # A poll within seconds of the last answer returns that answer.
    for _ in range(400):
        task = elsewhere.run("tasks", "poll", made["provider_task_id"], "--json").document["task"]
        if task["status"] != "submitted":
            break
    assert (task["status"], task["message"]) == ("failed", "no dogs")
    missing = elsewhere.run("adopt", "kling", "images/omni-image", "404")
    assert missing.status == 1
    assert "404" in missing.line


def test_wait_exit_status_reflects_task_status(shell: Shell, kling_sandbox_factory: Sandboxes) -> None:
    shell.settings["kling_base_url"] = kling_sandbox_factory(failure_rate=1.0).base_url
    failed = shell.run("submit", "--prompt", "a cat", "--wait", "--json")
    assert (failed.status, failed.document["status"]) == (1, "failed")
    shell.settings["kling_base_url"] = kling_sandbox_factory(held=True).base_url
    given_up = shell.run("submit", "--prompt", "a cat", "--wait", "--timeout", "1s")
    assert given_up.status == 1
    assert "homing why" in given_up.line


def test_watch_shows_changes_until_task_finishes(shell: Shell) -> None:
    task = shell.run("submit", "--prompt", "a cat", "--json").document
    watched = shell.run("tasks", "watch", task["id"])
    assert watched.status == 0
    assert [line.split()[1] for line in watched.out.splitlines()][-1] == task["id"]
    assert watched.out.splitlines()[-1].endswith("succeeded")


def test_provider_refusal_exits_with_status_1(shell: Shell) -> None:
    refused = shell.run("submit", "--prompt", "a cat", "--model", "no-such-model")
    assert refused.status == 1
    assert "no-such-model" in refused.line
    assert refused.out == ""


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("tasks", "show", "nope"), 1, "no such task"),
        (("tasks", "show", "../v1/stats"), 1, "no such task"),
        (("tasks", "list", "--created-after", "yesterday"), 1, "created_after"),
        (("callback-url", "create", "kling"), 1, "HOMING_PUBLIC_URL"),
        (("callback-url", "revoke"), 2, "NUMBER"),
        (("submit",), 2, "--prompt"),
        (("submit", "--body", "absent.json"), 2, "absent.json"),
        (("submit", "--prompt", "x", "--image", "absent.png"), 2, "absent.png"),
        (("submit", "--input", "absent.json"), 2, "Pass a JSON object, @FILE or -"),
        (("submit", "--input", "@absent.json"), 2, "--input absent.json cannot be read"),
        (("submit", "--input", "[1]"), 2, "not a JSON object"),
        (("submit", "--input", "{}", "--body", "b.json"), 2, "Pass one of them"),
        (("submit", "--input", '{"prompt": "x", "n": 99}'), 1, "input: n must be"),
        (("submit", "--provider", "nobody", "--prompt", "x"), 2, "--kind"),
        (("submit", "--provider", "nobody", "--kind", "x", "--prompt", "x"), 1, "unknown provider 'nobody'"),
        (("submit", "--prompt", "x", "--metadata", "order"), 2, "KEY=VALUE"),
        (("tasks", "--metadata", "=17"), 2, "KEY=VALUE"),
        (("expect", "nobody", "images/omni-image"), 1, "nobody"),
        (("expect", "kling", "images/nothing"), 1, "images/nothing"),
        (("reconcile", "--discover", "--kind", "images/nothing"), 2, "Choose from audio/"),
    ],
)
def test_user_error_is_one_line_with_fitting_status(
    shell: Shell, arguments: tuple[str, ...], status: int, says: str
) -> None:
    shell.run("migrate")
    result = shell.run(*arguments)
    assert result.status == status
    assert says in result.line
    assert result.out == ""


def test_unusable_settings_exit_with_status_2(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {})
    assert shell.run("tasks", port="x").status == 2
    absent = f"sqlite:///{tmp_path}/absent/homing.db"
    assert "Choose an existing directory" in shell.run("migrate", database_url=absent).line
    (tmp_path / "homing.db").write_text("this is no database, and it is long enough to be read as one" * 40)
    broken = shell.run("tasks")
    assert broken.status == 1
    assert broken.line


def test_remote_server_is_used_or_reported_absent(shell: Shell, tmp_path: Path) -> None:
    elsewhere = Shell(tmp_path / "elsewhere", {})
    with shell.serving() as served:
        task_id = shell.run("expect", "kling", "images/omni-image", "--json").document["task"]["id"]
        refused = elsewhere.run("tasks", api_url=served.url)
        assert (refused.status, "Set HOMING_API_KEYS" in refused.line) == (1, True)
        key = f"local*:{shell.key}"
        listed = elsewhere.run("tasks", "list", "--json", api_url=served.url, api_keys=key)
        assert [task["id"] for task in listed.document["tasks"]] == [task_id]
        url = served.url
    gone = elsewhere.run("tasks", api_url=url)
    assert gone.status == 1
    assert "cannot be reached" in gone.line
    assert not (elsewhere.directory / "homing.db").exists()


def test_command_waits_for_lock_then_names_process_id(shell: Shell) -> None:
    shell.run("migrate")
    with ServingLock(shell.directory / "homing.db"):
        result = shell.run("expect", "kling", "images/omni-image")
    assert result.status == 1
    assert "Try again when it has ended" in result.line


def test_all_clients_key_or_key_pair_is_used(shell: Shell) -> None:
    keys = {"api_keys": "studio:made-up-studio-key,ops*:made-up-ops-key-2"}
    with shell.serving(**keys, client_keys=f"signer:{CLIENT_SECRET}"):
        assert shell.run("expect", "kling", "images/omni-image", "--json", **keys).document["task"]["client"] == "ops"
        studio = shell.run("expect", "kling", "images/omni-image", "--json", api_keys="studio:made-up-studio-key")
        assert studio.document["task"]["client"] == "studio"
        signer = shell.run("expect", "kling", "images/omni-image", "--json", client_keys=f"signer:{CLIENT_SECRET}")
        assert signer.document["task"]["client"] == "signer"
        assert len(shell.run("tasks", "list", "--json", **keys).document["tasks"]) == 3
        unknown = shell.run("expect", "kling", "images/omni-image", api_keys="studio:another-made-up-key")
        assert unknown.status == 1
        assert "another-made-up-key" not in unknown.line
        assert shell.run("expect", "kling", "images/omni-image").status == 1


def test_reconcile_round_prints_its_actions(shell: Shell) -> None:
    task = shell.run("submit", "--prompt", "a cat", "--json").document
    rounds: list[dict[str, int]] = []
    while not any(counts["settled"] for counts in rounds):
        assert len(rounds) < 400
        rounds.append(shell.run("reconcile", "--once", "--json").document)
    assert shell.run("tasks", "show", task["id"], "--json").document["status"] == "succeeded"


def test_list_scan_adopts_unknown_tasks(shell: Shell) -> None:
    elsewhere = another(shell)
    made = elsewhere.run("submit", "--prompt", "a cat", "--json").document
    found = shell.run("reconcile", "--discover", "--kind", "images/omni-image", "--json").document
    assert (found["listed"], found["adopted"]) == (1, 1)
    shown = shell.run("tasks", "show", made["provider_task_id"], "--json")
    assert shown.document["provider_task_id"] == made["provider_task_id"]


def test_list_scan_of_all_kinds_is_one_table(shell: Shell) -> None:
    another(shell).run("submit", "--prompt", "a cat", "--json")

    head, *rows = shell.run("reconcile", "--discover").out.splitlines()

    assert head.split() == ["provider", "kind", "listed", "known", "adopted", "settled", "unclear", "deleted"]
    counts = {row.split()[1]: [int(count) for count in row.split()[2:]] for row in rows}
    assert counts["images/omni-image"] == [1, 0, 1, 0, 0, 0]
    assert counts["videos/text2video"] == counts["text-to-video"] == [0] * 6


def test_documents_and_key_are_printed(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {})
    document = shell.run("openapi").document
    assert "/v1/tasks/{ref}" in document["paths"]
    before = list(tmp_path.iterdir())
    made = shell.run("key", "studio", "--all-clients").out
    assert made.startswith("HOMING_API_KEYS=studio*:")
    assert len(made.split(":")[1]) > 40
    assert shell.run("openapi", "--json").document == document
    events = shell.run("asyncapi").document
    assert "homing.task.succeeded" in events["channels"]["webhooks"]["messages"]
    assert shell.run("asyncapi", "--json").document == events
    key = shell.run("key", "studio", "--json").document
    assert (key["name"], key["all_clients"], len(key["key"]) > 40) == ("studio", False, True)
    assert list(tmp_path.iterdir()) == before
