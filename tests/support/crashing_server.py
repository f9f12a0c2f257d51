"""A Homing server that gets into trouble at a named point: ``python -m tests.support.crashing_server --help``.

It is put together from the same public parts as `homing serve`; only the delays are shorter, and the store is one that
dies, dawdles, or may not write. Settings come from the environment, as they do there.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import uvloop

from homing.server.logs import set_up_logs
from homing.server.serving_lock import ServingLock
from homing.server.web_server import listen, running
from tests.support.crash_points import POINTS, Crash, CrashingStore, HalfAnswered, UnmarkedStore
from tests.support.failing_stores import DawdlingStore, impatient, may_not_write
from tests.support.homing_server import SHORT, SILENT, composed
from tracker.settings import load_settings
from tracker.storage.store import Store

# A dead process does not answer. Recovery of its submissions waits this long.
BRISK = replace(SHORT, answer_within=timedelta(seconds=4), attempt=timedelta(seconds=3))
# A poll lasts longer than a slow machine needs to notice that a process is dead.
PATIENT = replace(SILENT, query=timedelta(minutes=1))
POLICIES = {"short": BRISK, "silent": SILENT, "patient": PATIENT}


async def serve(args: argparse.Namespace) -> None:
    """Serve until killed: there is no other end."""
    settings = load_settings(env_file=None)
    set_up_logs(settings.log_level)
    answers = HalfAnswered()
    waiting = {"commits": args.commits, "commit_timeout": timedelta(seconds=args.commit_timeout)}
    with (
        ServingLock(settings.database_file),
        closing(listen(settings.host, settings.port)) as listener,
        may_not_write(),
    ):
        store = _store(settings.database_url, args, answers)
        async with composed(settings, policy=POLICIES[args.policy], store=store, **waiting) as (_, _, app):
            answers.app = app
            async with running(answers, listener):
                await asyncio.Event().wait()


def _store(url: str, args: argparse.Namespace, answers: HalfAnswered) -> Store:
    if args.when:
        crash = Crash(when=args.when, piece=args.piece, nth=args.nth, least=args.least)
        return CrashingStore(url, crash, answers)
    if args.unmarked:
        return UnmarkedStore(url, args.unmarked)
    if args.dawdle:
        return DawdlingStore(url, seconds=args.dawdle)
    return impatient(url) if args.impatient else Store(url)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", choices=POLICIES, default="short")
    parser.add_argument("--when", choices=POINTS)
    parser.add_argument("--piece", default="")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--least", type=int, default=1)
    parser.add_argument("--unmarked", type=int, help="die after delivering so many events, before recording it")
    parser.add_argument("--dawdle", type=float, help="how many seconds each batch takes")
    parser.add_argument("--impatient", action="store_true", help="wait for a locked database for a moment only")
    parser.add_argument("--commits", type=int, default=4096, help="how many deliveries may wait for their commit")
    parser.add_argument("--commit-timeout", type=float, default=10.0, help="for how many seconds each of them may")
    uvloop.run(serve(parser.parse_args(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
