"""One of several Homing servers on one PostgreSQL, with short delays.

Run ``python -m tests.support.replica_server --help``. It is put together from the same
public parts as `homing serve`. Settings come from the environment, as they do there.
"""

import argparse
import asyncio
from contextlib import closing
from datetime import timedelta

from homing.serve import Homing
from homing.server.logs import set_up_logs
from homing.server.web_server import listen, running
from tests.support.crashing_server import POLICIES
from tracker.loops.membership import HeartbeatTiming
from tracker.settings import load_settings

QUICK = HeartbeatTiming(heartbeat=timedelta(milliseconds=200), silence=timedelta(seconds=1.5))


async def serve(args: argparse.Namespace) -> None:
    """Serve until killed: there is no other end."""
    settings = load_settings(env_file=None)
    set_up_logs(settings.log_level)
    with closing(listen(settings.host, settings.port)) as listener:
        async with (
            Homing(settings, policy=POLICIES[args.policy], heartbeat_timing=QUICK) as homing,
            running(homing.app, listener),
        ):
            await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", choices=POLICIES, default="short")
    asyncio.run(serve(parser.parse_args()))
