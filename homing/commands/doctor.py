"""`homing doctor`: show the settings in force, with secrets masked, and check what follows from them."""

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address
from os import W_OK, access
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from homing.commands.arguments import Usage
from homing.commands.client import Failed
from homing.commands.findings import Finding, Level
from homing.commands.live_check import as_json as live_as_json
from homing.commands.live_check import print_comparisons, run_live
from homing.commands.settings_in_force import in_force
from homing.serve import access_of
from homing.server.local_key import key_file, read_local_key
from homing.server.logs import set_up_logs
from homing.server.serving_lock import Held, ServingLock
from homing.terminal import print_json, print_line, print_table
from tracker.api.health_schemas import ReadyShown
from tracker.api.http.access import check_keys
from tracker.app import accounts_of, create_tracker
from tracker.delivery.sinks.urls import check_sink
from tracker.errors import HomingError, NotSent, ReplyLost, SettingsError
from tracker.loops.membership import HEARTBEAT_TIMING
from tracker.model.clock import Reading, utc_now
from tracker.model.hosts import is_loopback, url_host
from tracker.model.sinks import SinkSpec
from tracker.model.targets import Allowed
from tracker.model.task import Trust
from tracker.model.untrusted import JsonValue
from tracker.providers.base import Account, BadCredential, Busy, Reply, Unknown, Unsupported
from tracker.providers.kling import Kling
from tracker.service.tracker import Tracker
from tracker.settings import BASE_URLS, CREDENTIALS, WEBHOOK_SECRETS, CheckedSettings, Settings
from tracker.storage.engine.database_file import exists
from tracker.storage.store import Store
from tracker.transport import TargetRefused, Transport

PROVIDER_TIMEOUT: Final = timedelta(seconds=10)
# For requests to this Homing, in seconds.
LOCAL_TIMEOUT: Final = httpx.Timeout(3)
MAX_DATABASE_SKEW: Final = timedelta(seconds=1)
MAX_PROVIDER_SKEW: Final = timedelta(seconds=60)
# The prefix lengths of the widest private networks: 10.0.0.0/8 and fc00::/7.
WIDEST_PREFIXES: Final = MappingProxyType({4: 8, 6: 7})
METADATA_ADDRESS: Final = IPv4Address("169.254.169.254")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    set_up_logs("error")
    if args.live and args.spend_at_most is None:
        raise Usage("--live sends a task that costs money. Say how much it may cost, such as --spend-at-most 0.25")
    if args.live and args.json and not args.yes:
        raise Usage("--json prints no question. Add --yes to send the task without one")
    checked = args.source.check()
    status = 0 if args.live and args.json else asyncio.run(report(checked, as_json=args.json))
    if not args.live:
        return status
    if status:
        raise Failed("nothing was sent, because the checks above found something wrong")
    return asyncio.run(live_report(checked.settings, args))


async def live_report(settings: Settings, args: Namespace) -> int:
    """Send one task, print how the provider compares with what Homing assumes, and return 1 if it differs."""
    found = await run_live(settings, most=args.spend_at_most, yes=args.yes, quiet=args.json)
    if args.json:
        print_json({"live": live_as_json(found)})
    else:
        print_line("")
        print_comparisons(found)
    return int(any(each.level is Level.WRONG for each in found))


async def report(checked: CheckedSettings, *, as_json: bool) -> int:
    """Print the report, and return 1 if something is wrong."""
    findings = [Finding(name="settings", level=Level.WRONG, detail=error) for error in checked.errors]
    findings += notes(checked.settings, checked.unknown)
    for needed, check in CHECKS:
        if checked.left_out.isdisjoint(needed):
            findings += await check(checked.settings)
    shown = in_force(checked)
    if as_json:
        checks: list[JsonValue] = [asdict(finding) for finding in findings]
        print_json({"settings": shown, "checks": checks})
    else:
        print_table(("setting", "value"), list(shown.items()), empty="")
        print_line("")
        rows = [(finding.level.value, finding.name, finding.detail) for finding in findings]
        print_table(("", "check", "what was found"), rows, empty="")
    return int(any(finding.level is Level.WRONG for finding in findings))


async def clients(settings: Settings) -> list[Finding]:
    """Check which keys the API accepts, and whether `homing serve` would start with them."""
    try:
        if settings.guarded or settings.database_file is None:
            check_keys(access_of(settings))
            return [Finding(name="clients", level=Level.OK, detail="requests need one of the configured keys")]
        if read_local_key(settings.database_file) is not None:
            detail = f"HOMING_API_KEYS is not set. Requests need the key in {key_file(settings.database_file)}"
        else:
            detail = f"HOMING_API_KEYS is not set. The first start creates a key in {key_file(settings.database_file)}"
        return [Finding(name="clients", level=Level.OK, detail=detail)]
    except SettingsError as error:
        return [Finding(name="clients", level=Level.WRONG, detail=error.detail)]


async def callback_verification(settings: Settings) -> list[Finding]:
    """Check for each provider in use whether a callback can reach the trust level that ends a task."""
    if settings.public_url is None:
        detail = "HOMING_PUBLIC_URL is not set. Homing requests no callbacks and polls for every result"
        return [Finding(name="callback verification", level=Level.OK, detail=detail)]
    return [_verification(settings, provider) for provider in in_use(settings)]


def _verification(settings: Settings, provider: str) -> Finding:
    level = Level.NOTE
    setting = f"{provider}_webhook_secrets"
    signed, threshold = bool(getattr(settings, setting)), settings.thresholds[provider]
    if signed and threshold is Trust.TOKEN:
        detail = "HOMING_MIN_FINAL_TRUST=token lets a callback without a signature end a task. Set it to signed"
    elif not signed and threshold is Trust.TOKEN:
        detail = (
            "only the secret callback URL verifies a callback; signatures are not checked. "
            f"Set HOMING_{setting.upper()} if the provider signs"
        )
    elif threshold is Trust.PROVIDER or not signed:
        trust = threshold.name.lower()
        detail = f"HOMING_MIN_FINAL_TRUST={trust}: no callback ends a task. Homing polls for each result"
    else:
        level, detail = Level.OK, "only a signed callback ends a task"
    return Finding(name=_of("callback verification", provider), level=level, detail=detail)


def in_use(settings: Settings) -> list[str]:
    """Return the providers with a credential or webhook secrets, or Kling if there is none."""
    used = [
        name
        for name, account in accounts_of(settings).items()
        if account.credential is not None or getattr(settings, f"{name}_webhook_secrets")
    ]
    return used or [Kling.name]


def _of(check: str, provider: str) -> str:
    return check if provider == Kling.name else f"{check} of {provider}"


def notes(settings: Settings, unknown: Sequence[str]) -> list[Finding]:
    """Return findings about unknown variables, wide targets, and a credential sent without encryption."""
    findings = [Finding(name="settings", level=Level.NOTE, detail=sentence) for sentence in unknown]
    findings += [
        Finding(name="targets", level=Level.NOTE, detail=f"HOMING_ALLOWED_TARGETS names {sentence}")
        for sentence in wide_targets(settings.allowed_targets)
    ]
    for name, account in accounts_of(settings).items():
        plain = urlsplit(account.base_url).scheme == "http" and not is_loopback(url_host(account.base_url))
        if plain and account.credential is not None:
            detail = f"{account.address_setting} is http, so Homing sends the credential without encryption. Use https"
            findings.append(Finding(name=_of("provider URL", name), level=Level.NOTE, detail=detail))
    return findings


def wide_targets(allowed: Allowed) -> list[str]:
    """Return a sentence for each allowed network that is too wide or holds a metadata address."""
    return [
        f"{network}, which covers much of the internet. Name single hosts"
        for network in allowed.networks
        if network.prefixlen < WIDEST_PREFIXES[network.version]
    ] + [
        f"{network}, which contains the cloud metadata address {METADATA_ADDRESS}. Name single hosts"
        for network in allowed.networks
        if network.version == METADATA_ADDRESS.version
        and network.prefixlen >= WIDEST_PREFIXES[4]
        and METADATA_ADDRESS in network
    ]


async def database(settings: Settings) -> list[Finding]:
    """Return findings about the database: whether it can be written, who serves it, and its clock."""
    file, name = settings.database_file, settings.database_name
    if file is not None and not exists(file):
        fine = file.parent.is_dir() and access(file.parent, W_OK)
        detail = f"the first command creates {file}" if fine else f"{file.parent} is not a writable directory"
        return [Finding(name="database", level=Level.OK if fine else Level.WRONG, detail=detail)]
    try:
        with ServingLock(file):
            async with create_tracker(settings) as tracker:
                return [*await _checked(tracker), *(await _shared(tracker.store) if file is None else ())]
    except Held as held:
        where = f" at {held.holder.url}" if held.holder.url else ""
        detail = f"{name} is served by process {held.holder.pid}{where}"
        return [Finding(name="database", level=Level.OK, detail=detail), *await _noticed(held.holder.url)]
    except HomingError as error:
        return [Finding(name="database", level=Level.WRONG, detail=error.detail)]


async def public_url(settings: Settings) -> list[Finding]:
    """Check whether the public URL leads to Homing. The provider may see it differently."""
    level, url = Level.NOTE, settings.public_url
    if url is None:
        detail = "none: Homing requests no callbacks and polls for every result"
        return [Finding(name="public URL", level=Level.OK, detail=detail)]
    if urlsplit(url).scheme != "https" and not is_loopback(url_host(url)):
        detail = "HOMING_PUBLIC_URL is http, so others on the network can read callback URLs. Use https"
        return [Finding(name="public URL", level=Level.NOTE, detail=detail)]
    hosts = [url_host(accounts_of(settings)[name].base_url) for name in in_use(settings)]
    if is_loopback(url_host(url)) and (provider := next((host for host in hosts if not is_loopback(host)), None)):
        detail = (
            f"{url} is this machine's own address, so {provider} cannot send callbacks to it. "
            "Set HOMING_PUBLIC_URL to a URL that is reachable from the internet, or remove it: Homing then polls"
        )
        return [Finding(name="public URL", level=Level.NOTE, detail=detail)]
    try:
        async with httpx.AsyncClient(timeout=LOCAL_TIMEOUT, trust_env=False) as http:
            answer = await http.get(f"{url}/healthz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        detail = f"{url} does not answer from here ({type(error).__name__}). Check that `homing serve` is reachable"
    else:
        detail = f"{url}/healthz answers {answer.status_code}. Check for another server or a proxy at this URL"
        if answer.is_success:
            level, detail = Level.OK, f"{url} answers"
    return [Finding(name="public URL", level=level, detail=detail)]


async def credential(settings: Settings) -> list[Finding]:
    """Check whether each provider accepts its credential, with a request for one page of its task list."""
    accounts = [account for account in accounts_of(settings).values() if account.credential is not None]
    if not accounts:
        others = "For Replicate, set HOMING_REPLICATE_API_KEY"
        detail = f"none. Set HOMING_KLING_API_KEY, or HOMING_KLING_ACCESS_KEY with HOMING_KLING_SECRET_KEY. {others}"
        return [Finding(name="provider credential", level=Level.WRONG, detail=detail)]
    return [finding for account in accounts for finding in await _accepted(account)]


async def _accepted(account: Account) -> list[Finding]:
    provider, kind = account.provider, next(iter(account.provider.kinds))
    transport = Transport()
    await transport.open()
    now = datetime.now(UTC)
    try:
        reply = await transport.send(account, provider.list_page(kind, None), now=now, within=PROVIDER_TIMEOUT)
    except (NotSent, ReplyLost) as error:
        detail = f"{account.base_url}: {error.detail}"
        return [Finding(name=_of("provider credential", provider.name), level=Level.WRONG, detail=detail)]
    finally:
        await transport.close()
    return [_credential(account, kind, reply), *_clock(account, reply, now)]


def _credential(account: Account, kind: str, reply: Reply) -> Finding:
    match account.provider.read_list(reply, kind, None):
        case BadCredential() as answer:
            level, detail = Level.WRONG, f"{account.base_url} refuses it: {answer.message} ({answer.code})"
        case Busy() as answer:
            level, detail = Level.NOTE, f"{account.base_url} is too busy to answer: {answer.message}"
        case Unknown() | Unsupported() as answer:
            level, detail = Level.NOTE, f"{account.base_url} does not confirm it: {answer.why}"
        case _:
            level, detail = Level.OK, f"{account.base_url} accepts it"
    return Finding(name=_of("provider credential", account.provider.name), level=level, detail=detail)


async def sinks(settings: Settings) -> list[Finding]:
    """Check whether each sink can be reached: its function exists, its host or broker answers. Sends no event."""
    return [await _sink(spec, settings.allowed_targets) for spec in settings.sinks]


async def _sink(spec: SinkSpec, allowed: Allowed) -> Finding:
    level, detail = Level.OK, f"{spec.address} can be reached; nothing was sent"
    try:
        await check_sink(spec, allowed)
    except (SettingsError, TargetRefused) as error:
        level, detail = Level.WRONG, error.detail
    except NotSent as error:
        # The sink may start later, or be reachable only from another machine.
        level, detail = Level.NOTE, f"{spec.address} cannot be reached from here now: {error.detail}"
    return Finding(name=f"sink {spec.name}", level=level, detail=detail)


def _clock(account: Account, reply: Reply, now: datetime) -> list[Finding]:
    """Compare this machine's clock with the provider's. Signatures tolerate five minutes, tokens seconds."""
    try:
        theirs = parsedate_to_datetime(reply.headers.get("date", ""))
    except ValueError:
        return []
    skew = abs(theirs.astimezone(UTC) - now)
    if skew <= MAX_PROVIDER_SKEW + PROVIDER_TIMEOUT:
        return [Finding(name=_of("clock", account.provider.name), level=Level.OK, detail="agrees with the provider's")]
    detail = f"{skew.total_seconds():.0f} s apart from the provider's, so tokens will be refused. Correct the clock"
    return [Finding(name=_of("clock", account.provider.name), level=Level.WRONG, detail=detail)]


async def _checked(tracker: Tracker) -> list[Finding]:
    checks = await tracker.check()
    needed = [check for check in checks if check.fatal]
    level = Level.OK if all(check.ok for check in needed) else Level.WRONG
    details = "; ".join(check.detail for check in needed)
    database = Finding(name="database", level=level, detail=f"{details}; schema {await tracker.store.revision()}")
    others = [check for check in checks if not check.fatal and not check.ok]
    return [database, *(Finding(name=check.name, level=Level.NOTE, detail=check.detail) for check in others)]


async def _noticed(url: str | None) -> list[Finding]:
    """Return the problems that the process serving the database has noticed."""
    if not url:
        return []
    try:
        async with httpx.AsyncClient(timeout=LOCAL_TIMEOUT, trust_env=False) as http:
            readiness = ReadyShown.model_validate_json((await http.get(f"{url}/readyz")).content)
    except (httpx.HTTPError, httpx.InvalidURL, ValidationError):
        return []
    others = [check for check in readiness.checks if not check.fatal and not check.ok]
    return [Finding(name=check.name, level=Level.NOTE, detail=check.detail) for check in others]


async def _shared(store: Store) -> list[Finding]:
    """Return whether the clock of the database server agrees, and which processes serve the database."""
    clock = database_clock(await store.servers.read_clock(utc_now))
    alive = [
        f"process {one.pid} on {one.host} ({', '.join(one.parts)})"
        for one in await store.servers.alive(silence=HEARTBEAT_TIMING.silence)
    ]
    return [clock, Finding(name="servers", level=Level.OK, detail="; ".join(alive) or "none is running")]


def database_clock(reading: Reading) -> Finding:
    """Check whether the database clock, which all replicas use, agrees with this machine's."""
    apart = reading.ahead
    if abs(apart) <= MAX_DATABASE_SKEW + reading.error:
        return Finding(name="database clock", level=Level.OK, detail="agrees with this machine's")
    side = "ahead of" if apart > timedelta() else "behind"
    detail = (
        f"{abs(apart).total_seconds():.1f} s {side} this machine's. Homing uses the database's clock. "
        "Correct the wrong one; the provider's tokens depend on it"
    )
    return Finding(name="database clock", level=Level.NOTE, detail=detail)


# A check runs only if all settings that it reads are valid.
CHECKS: Final[Sequence[tuple[frozenset[str], Callable[[Settings], Awaitable[list[Finding]]]]]] = (
    (frozenset({"api_keys", "client_keys", "database_url"}), clients),
    (frozenset({"public_url", "min_final_trust", *CREDENTIALS, *WEBHOOK_SECRETS}), callback_verification),
    # Opening the database generates a callback secret if none is configured.
    (frozenset({"database_url", "database_schema", "callback_secrets"}), database),
    (frozenset({"public_url", *BASE_URLS, *CREDENTIALS, *WEBHOOK_SECRETS}), public_url),
    (frozenset({*BASE_URLS, *CREDENTIALS}), credential),
    (frozenset({"sinks", "allowed_targets"}), sinks),
)
