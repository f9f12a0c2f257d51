"""`homing doctor --live`: send one real task, and compare what the provider does with what Homing assumes.

The report names no ID, no URL and no secret, so it can be shared.
"""

import asyncio
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import urlsplit

import httpx

from homing.commands.arguments import Usage
from homing.commands.client import ApiClient, Failed, connect, segment
from homing.commands.findings import Level
from homing.terminal import print_line, print_table
from tracker.errors import NotSent, ReplyLost, Unreadable
from tracker.model.task import FINAL, SETTLED, Status
from tracker.model.untrusted import JsonObject, JsonValue, read_object
from tracker.providers.base import Account, Found, Missing, Page, Query
from tracker.providers.masking import masked
from tracker.settings import Settings
from tracker.transport import Transport

# The cheapest task in the price list, "API pricing" on https://kling.ai/document-api: a quarter of a unit for a sound.
KIND: Final = "audio/text-to-audio"
BODY: Final[JsonObject] = {"prompt": "one soft click", "duration": 3}
PRICE: Final = Decimal("0.25")
PATIENCE: Final = timedelta(minutes=15)
# After the end, how long the last callback may take.
CALLBACK_PATIENCE: Final = timedelta(seconds=30)
PAUSE_SECONDS: Final = 1.0
TIMEOUT: Final = timedelta(seconds=30)
Say = Callable[[str], None]
# The fields of a task that the documentation names.
DOCUMENTED: Final = frozenset(
    {"task_id", "task_status", "task_status_msg", "task_info", "task_result", "created_at", "updated_at"}
    | {"final_unit_deduction", "final_balance_deduction", "watermark_info", "billing"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One assumption and what was seen. A ``note`` could not be decided."""

    name: str
    assumed: str
    seen: str
    level: Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What Homing recorded about the task, and the provider's answers about it. None: nothing was asked."""

    task: JsonObject
    history: Sequence[JsonObject]
    by_id: object
    by_external_id: object
    several: object
    listed: object
    file: str | None
    callback_expected: bool
    is_signed: bool


async def run_live(settings: Settings, *, most: Decimal, yes: bool, quiet: bool = False) -> list[Comparison]:
    """Send the task after a question, wait for its end, and compare. ``quiet`` prints no progress.

    Raises: Usage, if the task may not be sent. Failed, if it was not sent or has not ended.
    """
    say: Say = _nothing if quiet else print_line
    _allow(settings, most=most, yes=yes, say=say)
    async with connect(settings, loops=True) as api:
        task = await _sent(api)
        # Callbacks arrive only at a server.
        callback_expected = bool(task["callback_requested"]) and api.has_server
        task = await _ended(api, task, say)
        history = await _history(api, task, callback_expected=callback_expected)
    evidence = await _asked(settings, task, history, callback_expected=callback_expected)
    return compare(evidence, most=most)


def print_comparisons(found: Sequence[Comparison]) -> None:
    rows = [(each.level.value, each.name, each.assumed, each.seen) for each in found]
    print_table(("", "what", "assumed", "seen"), rows, empty="")


def as_json(found: Sequence[Comparison]) -> list[JsonValue]:
    return [asdict(each) for each in found]


def _nothing(text: str) -> None:
    """Print nothing."""


def _allow(settings: Settings, *, most: Decimal, yes: bool, say: Say) -> None:
    """Say what the check costs, and ask. Raises Usage."""
    if settings.kling_api_key is None and settings.kling_access_key is None:
        raise Usage("there is no credential for Kling. Set HOMING_KLING_API_KEY first")
    if most < PRICE:
        raise Usage(f"the cheapest task costs {PRICE} units. Allow that with --spend-at-most {PRICE}")
    host = urlsplit(settings.kling_base_url).hostname
    say("")
    say(f"This sends one real task to {host}, which costs money: {KIND}, {BODY['duration']} s of sound.")
    say(f"The provider's price list says {PRICE} units. At most one task is made.")
    if yes:
        return
    if not sys.stdin.isatty():
        raise Usage("nobody can answer here. Add --yes to send the task without a question")
    if input("Send it? Type yes: ").strip().lower() != "yes":
        raise Failed("nothing was sent")


async def _sent(api: ApiClient) -> JsonObject:
    # An external ID of its own: an equal request of an earlier check must not return that task.
    body = BODY | {"external_task_id": f"doctor-{secrets.token_hex(8)}"}
    data = (await api.post(f"/kling/v1/{KIND}", body))["data"]
    assert isinstance(data, dict)
    return await api.get(f"/v1/tasks/{segment(str(data['task_id']))}")


async def _ended(api: ApiClient, task: JsonObject, say: Say) -> JsonObject:
    """Wait until the task ends, and say each change. Raises Failed."""
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while task["status"] not in SETTLED:
                say(f"  {task['status']}")
                known = task["status"]
                while task["status"] == known:
                    task = await api.changed(task)
    except TimeoutError:
        raise Failed(f"the task has not ended within {PATIENCE}. See `homing why {task['id']}`") from None
    say(f"  {task['status']}")
    return task


async def _history(api: ApiClient, task: JsonObject, *, callback_expected: bool) -> list[JsonObject]:
    """Return the observations. If a final callback can come, wait for it for a while."""
    loop = asyncio.get_running_loop()
    end = loop.time() + CALLBACK_PATIENCE.total_seconds()
    while True:
        document = await api.get(f"/v1/tasks/{segment(str(task['id']))}/history")
        listed = document["entries"]
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        if not callback_expected or _callbacks(entries, final=True) or loop.time() > end:
            return entries
        await asyncio.sleep(PAUSE_SECONDS)


async def _asked(
    settings: Settings, task: JsonObject, history: Sequence[JsonObject], *, callback_expected: bool
) -> Evidence:
    """Ask the provider about the task in every way that Homing knows."""
    from tracker.app import create_tracker  # noqa: PLC0415 - the other checks need none

    account = create_tracker(settings).providers["kling"]
    provider, task_id = account.provider, str(task["provider_task_id"])
    transport = Transport()
    await transport.open()
    try:
        by_id = await _ask(transport, account, Query(kind=KIND, task_id=task_id))
        external_id = by_id.report.external_id if isinstance(by_id, Found) else None
        by_external_id = None
        if external_id is not None:
            by_external_id = await _ask(transport, account, Query(kind=KIND, task_id=external_id, external=True))
        now = datetime.now(UTC)
        several = await transport.send(account, provider.query_many([task_id]), now=now, within=TIMEOUT)
        page = await transport.send(account, provider.list_page(KIND, None), now=now, within=TIMEOUT)
    except (NotSent, ReplyLost) as error:
        raise Failed(f"the provider did not answer after the task had ended: {error.detail}") from None
    finally:
        await transport.close()
    return Evidence(
        task=task,
        history=history,
        by_id=by_id,
        by_external_id=by_external_id,
        several=provider.read_query_many(several),
        listed=provider.read_list(page, KIND, None),
        file=await _file(by_id),
        callback_expected=callback_expected,
        is_signed=bool(settings.kling_webhook_secrets),
    )


async def _ask(transport: Transport, account: Account, wanted: Query) -> object:
    call = account.provider.query(wanted)
    assert call is not None
    reply = await transport.send(account, call, now=datetime.now(UTC), within=TIMEOUT)
    outcome = account.provider.read_query(reply, wanted)
    return outcome if isinstance(outcome, Found | Missing) else masked(str(outcome), account.credential)


async def _file(by_id: object) -> str | None:
    """Describe the answer of the first result's URL, or return None without a result."""
    if not isinstance(by_id, Found) or not by_id.report.assets:
        return None
    try:
        async with (
            httpx.AsyncClient(timeout=TIMEOUT.total_seconds(), follow_redirects=True) as http,
            http.stream("GET", by_id.report.assets[0].url) as answer,
        ):
            return f"HTTP {answer.status_code}, {answer.headers.get('content-type', 'no content type')}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__


def compare(found: Evidence, *, most: Decimal) -> list[Comparison]:
    """Compare the evidence with what Homing assumes about Kling."""
    own = str(found.task["provider_task_id"])
    ended_well = found.task["status"] == Status.SUCCEEDED
    return [
        _comparison("task", "succeeds", str(found.task["status"]), is_right=ended_well),
        _about_callbacks(found),
        _about_signature(found),
        _comparison("query by ID", "finds it", _named(found.by_id), is_right=isinstance(found.by_id, Found)),
        _about_external_id(found.by_external_id),
        _about_several("query of many IDs", "finds it", found.several, own),
        _about_several("list", "has it on the first page", found.listed, own),
        _about_price(found.by_id, most),
        _about_file(found.file),
        _about_fields(found.by_id),
    ]


def _comparison(name: str, assumed: str, seen: str, *, is_right: bool | None) -> Comparison:
    level = Level.NOTE if is_right is None else Level.OK if is_right else Level.WRONG
    return Comparison(name=name, assumed=assumed, seen=seen, level=level)


def _callbacks(history: Sequence[JsonObject], *, final: bool = False) -> list[JsonObject]:
    return [
        entry for entry in history if entry["source"] == "callback" and (not final or str(entry["status"]) in FINAL)
    ]


def _about_callbacks(found: Evidence) -> Comparison:
    assumed = "one at each change of the status"
    if not found.callback_expected:
        seen = "not asked for. Set HOMING_PUBLIC_URL and run `homing serve` to check callbacks"
        return _comparison("callbacks", assumed, seen, is_right=None)
    said = [str(entry["provider_status"]) for entry in _callbacks(found.history)]
    has_final = bool(_callbacks(found.history, final=True))
    return _comparison("callbacks", assumed, ", ".join(said) or "none", is_right=has_final)


def _about_signature(found: Evidence) -> Comparison:
    assumed = "each callback is signed if the console has a secret"
    levels = sorted({str(entry["trust"]) for entry in _callbacks(found.history)})
    if not levels or not found.is_signed:
        seen = "no callback" if not levels else "HOMING_KLING_WEBHOOK_SECRETS is not set"
        return _comparison("signature", assumed, seen, is_right=None)
    return _comparison("signature", assumed, ", ".join(levels), is_right=levels == ["signed"])


def _about_external_id(outcome: object) -> Comparison:
    name, assumed = "query by external ID", "the ended task shows its external ID, and that finds it"
    if outcome is None:
        return _comparison(name, assumed, "the ended task shows no external ID", is_right=False)
    return _comparison(name, assumed, _named(outcome), is_right=isinstance(outcome, Found))


def _about_several(name: str, assumed: str, outcome: object, own: str) -> Comparison:
    listed = outcome.found if isinstance(outcome, Page) else outcome
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return _comparison(name, assumed, type(outcome).__name__.lower(), is_right=None)
    is_there = any(isinstance(one, Found) and one.report.provider_task_id == own for one in listed)
    return _comparison(name, assumed, "it is there" if is_there else "it is missing", is_right=is_there)


def _about_price(by_id: object, most: Decimal) -> Comparison:
    assumed = f"{PRICE} units"
    price = by_id.report.price if isinstance(by_id, Found) else {}
    amount = _units(price)
    if amount is None:
        seen = f"fields {', '.join(sorted(price))}" if price else "no price field"
        return _comparison("price", assumed, seen, is_right=None)
    over = f", more than the {most} that you allowed" if amount > most else ""
    return _comparison("price", assumed, f"{amount} units{over}", is_right=amount <= PRICE)


def _units(price: object) -> Decimal | None:
    """Return the number of units that a task cost, in either form of the price."""
    if not isinstance(price, dict):
        return None
    billing = price.get("billing")
    entries = billing if isinstance(billing, list) else []
    amounts = [entry.get("amount") for entry in entries if isinstance(entry, dict)]
    for value in (price.get("final_unit_deduction"), *amounts):
        try:
            return Decimal(str(value))
        except InvalidOperation:
            continue
    return None


def _about_file(file: str | None) -> Comparison:
    assumed = "the result can be fetched, as audio"
    if file is None:
        return _comparison("result", assumed, "there is no result", is_right=False)
    return _comparison("result", assumed, file, is_right=file.startswith("HTTP 200"))


def _about_fields(by_id: object) -> Comparison:
    assumed = "only fields that the documentation names"
    try:
        names = read_object(by_id.body).keys() if isinstance(by_id, Found) else set()
    except Unreadable:
        names = set()
    others = sorted(names - DOCUMENTED)
    return _comparison("fields", assumed, ", ".join(others) or "only those", is_right=None if others else True)


def _named(outcome: object) -> str:
    match outcome:
        case Found():
            return "found"
        case Missing():
            return "not found"
        case _:
            return str(outcome)[:200]
