"""Every secret is marked. The tests search all output for it: logs, answers, the terminal, error texts."""

import base64
import json
import re
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from homing.sandbox import RunningSandbox
from homing.serve import access_of
from receiver.providers import verifiers
from receiver.settings import ReceiverSettings
from tests.support.cli_process import Shell
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.homing_server import CAT, CREATE, KIND
from tracker.app import create_tracker
from tracker.errors import SettingsError
from tracker.model.task import SETTLED
from tracker.settings import load_settings

SandboxFactory = Callable[..., RunningSandbox]
MARK = "MARKED"
PROMPT = f"a {MARK} cat that nobody may read in a log"
WEBHOOK_KEY = base64.b64encode(f"{MARK}-webhook-key-of-32-bytes!".encode()).decode()
SECRETS = {
    "the studio's key": f"studio-{MARK}-key",
    "the operator's key": f"operator-{MARK}-key",
    "a client's secret": f"client-{MARK}-secret-of-at-least-32-bytes",
    "the provider's key": f"provider-{MARK}-key",
    "the provider's secret key": f"provider-{MARK}-secret-of-at-least-32-bytes",
    "the webhook secret": WEBHOOK_KEY,
    "the callback secret": f"callback-{MARK}-secret-of-at-least-32-bytes",
    "a key that is wrong": f"wrong-{MARK}-key",
}
SETTINGS = {
    "api_keys": "studio:" + SECRETS["the studio's key"] + ",operator*:" + SECRETS["the operator's key"],
    "client_keys": "made-up-access:" + SECRETS["a client's secret"],
    "kling_webhook_secrets": "whsec_" + WEBHOOK_KEY,
    "callback_secrets": SECRETS["the callback secret"],
    "log_level": "debug",
}
STUDIO = {"authorization": "Bearer " + SECRETS["the studio's key"]}
OPERATOR = {"authorization": "Bearer " + SECRETS["the operator's key"]}
WRONG = {"authorization": "Bearer " + SECRETS["a key that is wrong"]}
TOKEN = re.compile(r"/callbacks/kling/([\w-]+)")


@dataclass(slots=True)
class Search:
    """Collected output with its origin. ``tokens`` are the callback URL tokens created meanwhile."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def add(self, where: str, text: str) -> None:
        self.texts.append((where, text))

    def minted(self, url: str) -> None:
        (token,) = TOKEN.findall(url)
        self.tokens.add(token)

    def found(self, named_secrets: dict[str, str]) -> list[tuple[str, str]]:
        assert all(named_secrets.values())
        return [(where, name) for where, text in self.texts for name, secret in named_secrets.items() if secret in text]

    def secrets(self) -> list[tuple[str, str]]:
        assert self.tokens
        return self.found(SECRETS | {f"the address {number}": token for number, token in enumerate(self.tokens)})


@pytest.fixture
def sandbox(kling_sandbox_factory: SandboxFactory) -> RunningSandbox:
    return kling_sandbox_factory(
        api_keys=(SECRETS["the provider's key"],),
        access_keys={"made-up-provider-access": SECRETS["the provider's secret key"]},
        webhook_secrets=("whsec_" + WEBHOOK_KEY,),
        faults={"callback_forged": 1.0, "callback_doubled": 1.0},
    )


@pytest.fixture
def shell(tmp_path: Path, sandbox: RunningSandbox) -> Shell:
    return Shell(
        tmp_path,
        {**SETTINGS, "kling_base_url": sandbox.base_url, "kling_api_key": SECRETS["the provider's key"]},
    )


class ClientIdentity:
    """An HTTP client that keeps every answer with its headers."""

    def __init__(self, client: httpx.AsyncClient, search: Search) -> None:
        self.client = client
        self.search = search

    async def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        reply = await self.client.request(method, path, **request)
        self.search.add(f"the answer {reply.status_code} to {method} {TOKEN.sub('/callbacks/…', path)}", _all_of(reply))
        return reply


def _all_of(reply: httpx.Response) -> str:
    return f"{dict(reply.headers)}\n{reply.text}"


async def good_day(ask: ClientIdentity, sandbox: RunningSandbox) -> None:
    """Do the normal work of a client, an operator and a provider."""
    created = await ask("POST", CREATE, json=CAT | {"prompt": PROMPT}, headers=STUDIO)
    ours = created.json()["data"]["task_id"]
    claims = {"iss": "made-up-access", "nbf": datetime.now(UTC), "exp": datetime.now(UTC) + timedelta(minutes=5)}
    token = jwt.encode(claims, SECRETS["a client's secret"], algorithm="HS256")
    await ask("POST", CREATE, json=CAT, headers={"authorization": f"Bearer {token}"})
    ask.search.minted(sandbox.task(ours)["callback_url"])

    async def is_finished() -> bool:
        reply = await ask.client.get(f"/v1/tasks/{ours}", headers=STUDIO)
        return reply.json()["status"] in SETTLED and sandbox.ledger["callbacks"]["waiting"] == 0

    await until(is_finished, pause=0.1)
    for path in ("/v1/tasks", f"/v1/tasks/{ours}", f"/v1/tasks/{ours}/history", "/v1/stats", "/v1/orphans"):
        assert (await ask("GET", path, headers=OPERATOR)).is_success
    documents = ("/openapi.json", "/asyncapi.json")
    for path in ("/v1/callback-urls", "/healthz", "/readyz", *documents, CREATE, f"{CREATE}/{ours}"):
        assert (await ask("GET", path, headers=OPERATOR)).is_success
    await ask("POST", f"/v1/tasks/{ours}/poll", headers=STUDIO)


async def bad_day(ask: ClientIdentity, sandbox: RunningSandbox) -> None:
    """Make every mistake that involves a secret."""
    callback = sandbox.ledger["tasks"][0]["callback_url"]
    secret_body = json.dumps({"prompt": PROMPT, "n": 99, "external_task_id": PROMPT * 10})
    for headers in ({}, WRONG, STUDIO | {"host": "elsewhere.example"}):
        for path in (CREATE, f"/v1/tasks/{PROMPT}", "/v1/stats"):
            assert (await ask("GET", path, headers=headers)).is_client_error
    for content in (secret_body, secret_body[:-5], "[" * 200 + secret_body, f'{{"{PROMPT}": NaN}}'):
        json_type = {"content-type": "application/json"}
        assert (await ask("POST", CREATE, content=content, headers=STUDIO | json_type)).is_client_error
        assert (await ask("POST", "/v1/tasks/adopt", content=content, headers=STUDIO | json_type)).is_client_error
    assert (await ask("POST", CREATE, content=secret_body, headers=STUDIO)).status_code == 415
    key = {"idempotency-key": "key-1"}
    await ask("POST", CREATE, json=CAT, headers=STUDIO | key)
    assert (await ask("POST", CREATE, json=CAT | {"prompt": PROMPT}, headers=STUDIO | key)).status_code == 400
    signature = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": f"v1,{WEBHOOK_KEY}"}
    assert (await ask("POST", callback, content=secret_body, headers=signature)).status_code == 401
    assert (await ask("POST", callback, content=secret_body)).status_code == 200
    assert (await ask("GET", callback)).status_code == 405
    assert (await ask("POST", callback + "x", content=secret_body)).status_code == 404
    assert (await ask("POST", callback + "/" + PROMPT, content=secret_body)).status_code == 404


def break_database(shell: Shell) -> None:
    """Remove tables. Each statement then fails with a text that quotes its parameters."""
    with closing(sqlite3.connect(shell.directory / "homing.db", isolation_level=None)) as database:
        database.execute("DROP TABLE submissions")
        database.execute("DROP TABLE observations")


async def worst_day(ask: ClientIdentity, sandbox: RunningSandbox) -> None:
    callback = sandbox.ledger["tasks"][0]["callback_url"]
    assert (await ask("POST", CREATE, json=CAT | {"prompt": PROMPT}, headers=STUDIO)).is_server_error
    assert (await ask("POST", callback, content=json.dumps({"id": PROMPT}))).is_server_error
    history = f"/v1/tasks/{sandbox.ledger['tasks'][0]['external_id']}/history"
    assert (await ask("GET", history, headers=OPERATOR)).is_server_error


def terminal(shell: Shell, search: Search, ours: str) -> None:
    """Run every command that shows something."""
    for arguments in (
        ("tasks", "list"),
        ("tasks", "history", ours),
        ("tasks", "history", ours, "--json"),
        ("why", ours),
        ("stats",),
        ("orphans",),
        ("callback-url", "list"),
        ("doctor",),
        ("doctor", "--json"),
        ("reconcile", "--once"),
        ("tasks", "show", "nobody"),
        ("tasks", "resolve", ours, "--status", "rejected"),
    ):
        result = shell.run(*arguments)
        search.add(f"homing {' '.join(arguments)}", result.out + result.err)


async def test_output_holds_no_secret(shell: Shell, sandbox: RunningSandbox) -> None:
    search = Search()
    # The public URL needs the port. The first run finds the port, the second run uses it.
    with shell.serving() as first:
        url = first.url
    with shell.serving(port=url.rpartition(":")[2], public_url=url) as homing:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            ask = ClientIdentity(client, search)
            expected = await client.post("/v1/tasks/expect", json={"provider": "kling", "kind": KIND}, headers=STUDIO)
            search.minted(expected.json()["callback_url"])
            created = await client.post("/v1/callback-urls", json={"provider": "kling"}, headers=OPERATOR)
            search.minted(created.json()["callback_url"])
            await client.post(created.json()["callback_url"], json={"id": "nobody", "status": "submitted"})
            await good_day(ask, sandbox)
            shown = len(search.texts)
            await bad_day(ask, sandbox)
            break_database(shell)
            await worst_day(ask, sandbox)
        errors = [text for _, text in search.texts[shown:]]
    log = homing.errors.read_text()
    search.add("the log", log)
    search.add("the terminal", homing.line)
    assert search.secrets() == []
    # A prompt is shown only to its client and to the operator.
    assert [text for text in (*errors, log, homing.line) if MARK in text] == []
    # The log was on. At this level the libraries log everything.
    assert "DEBUG" in log or "INFO" in log


def test_commands_show_no_secret(shell: Shell, sandbox: RunningSandbox) -> None:
    search = Search()
    settings = {"public_url": "http://127.0.0.1:9"}
    shell = Shell(shell.directory, shell.settings | settings)
    sent = shell.run("submit", "--prompt", PROMPT, "--external-id", "mine", "--json")
    search.add("homing submit", sent.err + re.sub(re.escape(PROMPT), "", sent.out))
    (made,) = sandbox.ledger["tasks"]
    search.minted(sandbox.task(made["id"])["callback_url"])
    terminal(shell, search, "mine")
    other = Shell(shell.directory / "other", shell.settings | {"kling_api_key": SECRETS["a key that is wrong"]})
    for arguments in (("submit", "--prompt", PROMPT), ("doctor",)):
        result = other.run(*arguments)
        assert result.status == 1
        search.add(f"homing {arguments[0]} with a wrong key", result.out + result.err)
    assert search.secrets() == []
    # The task document shows its client the original request.
    assert search.found({"the prompt": PROMPT}) == [("homing tasks history mine --json", "the prompt")]


async def test_key_pair_is_never_shown(shell: Shell, sandbox: RunningSandbox) -> None:
    """The tokens that the key pair signs are secrets too."""
    pair = {
        "kling_access_key": "made-up-provider-access",
        "kling_secret_key": SECRETS["the provider's secret key"],
    }
    settings = {name: value for name, value in shell.settings.items() if name != "kling_api_key"}
    search = Search()
    with Shell(shell.directory, settings | pair).serving() as homing:
        async with httpx.AsyncClient(base_url=homing.url, headers=STUDIO, trust_env=False) as client:
            ask = ClientIdentity(client, search)
            reply = await ask("POST", CREATE, json=CAT)
            ours = reply.json()["data"]["task_id"]
            await ask("POST", f"/v1/tasks/{ours}/poll")
            await ask("GET", f"/v1/tasks/{ours}/history")
    search.add("the log", homing.errors.read_text())
    assert sandbox.task(ours)["account"] == "access-key made-up-provider-access"
    assert search.found(SECRETS | {"a token": "eyJ"}) == []


BAD_SETTINGS = {
    "HOMING_API_KEYS": [f"{MARK}-without-a-name", f"a b:{MARK}", f"one:{MARK},two:{MARK}"],
    "HOMING_CLIENT_KEYS": [f"access:{MARK}", f"{MARK}"],
    "HOMING_CALLBACK_SECRETS": [f"{MARK}-short"],
    "HOMING_KLING_API_KEY": [f"{MARK} with blanks"],
    "HOMING_KLING_SECRET_KEY": [f"{MARK}-alone"],
    "HOMING_KLING_WEBHOOK_SECRETS": [f"whsec_{MARK}!", f"{MARK}"],
    "HOMING_DATABASE_URL": [f"postgresql://user:{MARK}@host/db", f"mysql://user:{MARK}@host/db"],
    "HOMING_PUBLIC_URL": [f"https://user:{MARK}@host"],
}


def start_with(name: str, value: str) -> None:
    load_settings({name: value}, env_file=None)
    # The component refuses a value that can be read but not used.
    verifiers({"kling": [value]})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, texts in BAD_SETTINGS.items() for value in texts])
def test_invalid_setting_value_is_not_quoted(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        start_with(name, value)
    texts = [str(caught.value), repr(caught.value), "".join(traceback.format_exception(caught.value, chain=True))]
    assert [text for text in texts if MARK in text] == []
    assert "\n" not in str(caught.value)


def test_secret_objects_have_safe_reprs(tmp_path: Path) -> None:
    """A repr appears in debuggers, in tracebacks with locals, and in future log lines."""
    given = SETTINGS | {
        "kling_access_key": "made-up-provider-access",
        "kling_secret_key": SECRETS["the provider's secret key"],
        "database_url": sqlite_url(tmp_path),
        "public_url": "http://127.0.0.1:9",
    }
    settings = load_settings({f"HOMING_{name.upper()}": value for name, value in given.items()}, env_file=None)
    tracker = create_tracker(settings)
    account = tracker.providers["kling"]
    parts: list[object] = [
        settings,
        access_of(settings),
        *settings.api_keys,
        *settings.client_keys,
        account,
        account.credential,
        tracker,
    ]
    parts += [ReceiverSettings.from_settings(settings), verifiers({"kling": settings.kling_webhook_secrets})]
    # Bytes would appear with escapes.
    key = base64.b64decode(WEBHOOK_KEY)
    secret = SECRETS["the callback secret"].encode()
    for part in parts:
        text = f"{part!r} {part!s}"
        assert [name for name, secret_text in SECRETS.items() if secret_text in text] == []
        assert repr(key)[2:-1] not in text
        assert repr(secret)[2:-1] not in text
