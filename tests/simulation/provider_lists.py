"""The lists of the fake provider: by page number on the legacy paths, by cursor on ``POST /tasks``.

Newest first and in short pages, so that a history has several. Documented is neither the order nor that a page is full.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from tests.simulation.provider_shapes import Made, reply_of, shown
from tests.simulation.world import World
from tracker.providers.base import Call, Reply

LONGEST_PAGE: Final = 5
OPPOSITE: Final = {"succeed": "failed", "failed": "succeed"}


def list_page(world: World, tasks: Sequence[Made], call: Call, now: datetime, *, is_shared: bool) -> Reply:
    """Answer a request for a page. The shared list shows tasks in the newer dialect."""
    body = json.loads(call.body) if is_shared else {}
    start = int(body.get("cursor", "0")) if is_shared else (int(call.query["pageNum"]) - 1) * LONGEST_PAGE
    if start and world.strikes("list repeats", f"from {start}"):
        start = 0
    newest = sorted(tasks, key=lambda made: made.made_at, reverse=True)
    found = _entries(world, newest[start : start + LONGEST_PAGE], newest, now, is_new=is_shared)
    if not is_shared:
        return reply_of(200, 0, data=found)
    following = str(start + LONGEST_PAGE) if start + LONGEST_PAGE < len(newest) else ""
    data = {"result": found, "count": len(found), "next_cursor": following, "has_more": bool(following)}
    return reply_of(200, 0, data=data)


def _entries(
    world: World, page: Sequence[Made], newest: Sequence[Made], now: datetime, *, is_new: bool
) -> list[dict[str, Any]]:
    entries = []
    for made in page:
        if made.made_at > now or world.strikes("list entry dropped", made.id):
            continue
        entries.append(shown(made, now, is_new=is_new))
        if world.strikes("list entry doubled", made.id):
            # The other one is older.
            entries.append(shown(made, made.made_at, is_new=is_new))
    if newest and world.strikes("foreign entry in list", str(len(newest))):
        # A task of another account, even with an external ID of this one.
        copied = world.choice("foreign", newest)
        other = replace(copied, id=f"of-another-account-{copied.id}", final=OPPOSITE[copied.final])
        entries.append(shown(other, now, is_new=is_new))
    return entries
