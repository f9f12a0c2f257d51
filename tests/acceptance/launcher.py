"""A Homing server that kills its own process at a named point: ``python -m tests.acceptance.launcher --help``.

It is put together from the same public parts as `homing serve`; only the delays are shorter, and the store is one that
dies. Settings come from the environment, as they do there.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from homing.logs import set_up_logs
from homing.serving_lock import ServingLock
from homing.web_server import listen, running
from tests.acceptance.house import SHORT, SILENT, composed
from tracker.settings import load_settings
from tracker.storage.store import Store
from tracker.work import Work

BRISK = replace(SHORT, answer_within=timedelta(seconds=2), attempt=timedelta(seconds=1.5))
POLICIES = {"short": BRISK, "silent": SILENT}


class CrashingStore(Store):
    """Dies before or after the commit of the ``nth`` piece of work whose decision is called ``piece``."""

    def __init__(self, database_url: str, *, when: str, piece: str, nth: int) -> None:
        super().__init__(database_url)
        self._when = when
        self._piece = piece
        self._left = nth

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        self._left -= sum(_name(work) == self._piece for work in works)
        if self._left <= 0 and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        results = await super().apply(works)
        if self._left <= 0 and self._when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return results


def _name(work: Work[Any]) -> str:
    return work.decide.func.__name__ if isinstance(work.decide, partial) else ""


async def serve(args: argparse.Namespace) -> None:
    """Serve until killed: there is no other end."""
    settings = load_settings(env_file=None)
    set_up_logs(settings.log_level)
    store = None
    if args.when:
        store = CrashingStore(settings.database_url, when=args.when, piece=args.piece, nth=args.nth)
    with ServingLock(settings.database_file), closing(listen(settings.host, settings.port)) as listener:
        async with composed(settings, policy=POLICIES[args.policy], store=store) as (_, _, app), running(app, listener):
            await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", choices=POLICIES, default="short")
    parser.add_argument("--when", choices=("before", "after"))
    parser.add_argument("--piece", default="")
    parser.add_argument("--nth", type=int, default=1)
    asyncio.run(serve(parser.parse_args()))
