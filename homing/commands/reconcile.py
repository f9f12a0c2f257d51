"""`homing reconcile`: run only the reconciler, once or until it is stopped, or search the provider's list."""

import asyncio
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from homing.commands.client import Failed, must_exist
from homing.serve import joined
from homing.server.logs import set_up_logs
from homing.server.serving_lock import Held, ServingLock
from homing.server.web_server import Stop
from homing.terminal import print_fields, print_json, print_line, print_table
from tracker.app import discovery_of, reconciler_of
from tracker.errors import ProviderUnavailable, SettingsError
from tracker.loops.discovery import Discovered, Discovery, NoList
from tracker.model.servers import Part
from tracker.model.untrusted import JsonObject
from tracker.service.tracker import Tracker
from tracker.settings import Settings

COUNTED: Final = ("listed", "known", "adopted", "settled", "unclear", "deleted")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    settings = args.source.read()
    set_up_logs(settings.log_level)
    return asyncio.run(reconcile(settings, args))


async def reconcile(settings: Settings, args: Namespace) -> int:
    """Run the reconciler or the discovery and print the counts.

    Raises: Failed, if a server already reconciles this database file.
    """
    if not args.discover:
        must_exist(settings)
    try:
        with ServingLock(settings.database_file):
            async with joined(settings, parts={Part.LOOPS}) as (tracker, membership):
                tracker.budgets.follow(membership.share)
                return await _reconcile(tracker, args)
    except Held as held:
        raise Failed(
            f"process {held.holder.pid} serves {settings.database_name} and already reconciles it. "
            "Poll one task now with `homing tasks poll TASK`"
        ) from None


async def _reconcile(tracker: Tracker, args: Namespace) -> int:
    if args.discover:
        discovery = discovery_of(tracker)
        return await _discover(discovery, args, _listed(tracker, args.kind))
    reconciler = reconciler_of(tracker)
    if args.once:
        _show(args, asdict(await reconciler.run_once()))
        return 0
    stop, stop_signal = asyncio.Event(), Stop()
    rounds = asyncio.create_task(reconciler.run(stop))
    status = await stop_signal.wait(rounds)
    stop.set()
    await rounds
    return status


async def _discover(discovery: Discovery, args: Namespace, lists: Sequence[tuple[str, str]]) -> int:
    """Read all lists, also after one that cannot be read. Return 1 if one failed, or if the provider offers none."""
    found: list[tuple[str, str, Discovered]] = []
    failed = 0
    for provider, kind in lists:
        try:
            discovered = await discovery.discover(provider, kind)
        except NoList as missing:
            sys.stderr.write(f"{provider}: {missing.detail}\n")
        except ProviderUnavailable as error:
            failed += 1
            sys.stderr.write(f"{provider}, {kind}: {error.detail}\n")
        else:
            found.append((provider, kind, discovered))
            if args.json:
                print_json({"provider": provider, "kind": kind} | asdict(discovered))
    if found and not args.json:
        _print_discovered(found)
    return 1 if failed or not found else 0


def _print_discovered(found: Sequence[tuple[str, str, Discovered]]) -> None:
    """Print the counts of each list as one table, and the candidates below it."""
    rows = [(provider, kind, *(getattr(one, name) for name in COUNTED)) for provider, kind, one in found]
    print_table(("provider", "kind", *COUNTED), rows, empty="")
    for task_id, provider_task_id in (pair for _, _, one in found for pair in one.candidates):
        # The ID is the provider's text, and this is a line to copy into a shell.
        attach = f"homing tasks attach {task_id} {shlex.quote(provider_task_id)}"
        print_line(f"{provider_task_id} may be the task {task_id}. If it is: `{attach}`")


def _listed(tracker: Tracker, kind: str | None) -> Sequence[tuple[str, str]]:
    """Return (provider, kind) of each list to page: of ``kind``, or by default of all kinds.

    Providers without a credential are left out, unless there is none with one: then their refusals say what is missing.
    """
    used = {name: account for name, account in tracker.providers.items() if account.credential is not None}
    providers = {name: account.provider.kinds for name, account in (used or tracker.providers).items()}
    if kind is None:
        return [(name, one.name) for name, kinds in providers.items() for one in kinds.values()]
    lists = [(name, kind) for name, kinds in providers.items() if kind in kinds]
    if not lists:
        known = sorted({one for kinds in providers.values() for one in kinds})
        raise SettingsError(f"--kind {kind} is unknown. Choose from {', '.join(known)}")
    return lists


def _show(args: Namespace, counts: JsonObject) -> None:
    if args.json:
        print_json(counts)
    else:
        print_fields((name.replace("_", " "), value) for name, value in counts.items())
