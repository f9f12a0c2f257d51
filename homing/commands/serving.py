"""`homing serve`: the server, until it is stopped."""

import sys
from argparse import Namespace
from functools import partial
from itertools import chain
from typing import TextIO

import uvloop

from homing.serve import ALL_PARTS, serve
from homing.server.logs import set_up_logs
from homing.server.process import tune_garbage_collection


def run(args: Namespace) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit status."""
    settings = args.source.read()
    set_up_logs(settings.log_level)
    only = frozenset(chain.from_iterable(args.only)) if args.only else ALL_PARTS
    # Where events go to the standard output, nothing else does.
    aside = any(spec.scheme == "stdout" for spec in settings.sinks)
    to = sys.stderr if aside else sys.stdout
    return uvloop.run(serve(settings, announce=partial(_started, to=to), parts=only, show_key=to.isatty()))


def _started(line: str, *, to: TextIO) -> None:
    tune_garbage_collection()
    to.write(line + "\n")
    to.flush()
