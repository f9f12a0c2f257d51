"""`homing reconcile`: the reconciler alone, once or until it is stopped, or a search through the provider's list."""

import asyncio
import signal
from argparse import Namespace
from dataclasses import asdict

from homing.client import Failed
from homing.serve import Homing, compose
from homing.serving_lock import Held, ServingLock
from homing.tables import print_fields, print_json
from homing.web_server import INTERRUPTED
from tracker.bounds import JsonObject
from tracker.settings import Settings


async def reconcile(settings: Settings, args: Namespace) -> int:
    """Do what was asked and print the counts. Raises Failed where a server reconciles this database already."""
    try:
        with ServingLock(settings.database_file):
            async with compose(settings, loops=False) as homing:
                return await _reconcile(homing, args)
    except Held as held:
        raise Failed(
            f"process {held.holder.pid} serves {settings.database_file} and reconciles already; "
            "`homing tasks poll TASK` asks about one task now"
        ) from None


async def _reconcile(homing: Homing, args: Namespace) -> int:
    if args.discover:
        for provider, account in homing.tracker.providers.items():
            ours = [name for name, kind in account.provider.kinds.items() if kind.submits]
            for kind in [args.kind] if args.kind else ours:
                found = await homing.reconciler.discover(provider, kind)
                _show(args, {"provider": provider, "kind": kind} | asdict(found))
        return 0
    if args.once:
        _show(args, asdict(await homing.reconciler.run_once()))
        return 0
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, end, 0)
    loop.add_signal_handler(signal.SIGINT, end, INTERRUPTED)
    await homing.reconciler.run(stop)
    return statuses[0] if statuses else 1


def _show(args: Namespace, counts: JsonObject) -> None:
    if args.json:
        print_json(counts)
    else:
        print_fields((name.replace("_", " "), value) for name, value in counts.items())
