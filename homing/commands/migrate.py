"""`homing migrate`: create the database tables, or update them."""

import asyncio
from argparse import Namespace

from homing.commands.client import Failed
from homing.server.logs import set_up_logs
from homing.server.serving_lock import Held, ServingLock
from homing.terminal import print_json, print_line
from tracker.settings import Settings
from tracker.storage.store import Store


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    settings = args.source.read()
    set_up_logs("error")
    return asyncio.run(migrate(settings, args))


async def migrate(settings: Settings, args: Namespace) -> int:
    """Migrate the database and print the result.

    Raises: Failed, if a server serves the file. That server migrated it when it started.
    """
    name = settings.database_name
    try:
        with ServingLock(settings.database_file):
            done = await Store(settings.database_url, schema=settings.database_schema).migrate()
    except Held as held:
        raise Failed(f"process {held.holder.pid} serves {name}. Stop it first, then migrate") from None
    if args.json:
        print_json({"database": name, "before": done.before, "after": done.after})
    elif done.before == done.after:
        print_line(f"{name}: schema {done.after} is up to date. Nothing was changed")
    elif done.before is None:
        print_line(f"{name}: the tables were created, schema {done.after}")
    else:
        print_line(f"{name}: migrated from schema {done.before} to {done.after}")
    return 0
