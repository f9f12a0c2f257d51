"""Parts of a reply that every HTTP API shares: a web page instead of JSON, and ``Retry-After``."""

import re
from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from tracker.providers.base import Reply, Unknown

MAX_WAIT: Final = timedelta(days=1)
EXCERPT_LENGTH: Final = 4_096


def is_web_page(reply: Reply) -> bool:
    """Return whether a reply is HTML or XML, which comes from a proxy or another server."""
    return "html" in reply.headers.get("content-type", "").lower() or reply.body.lstrip()[:1] == b"<"


def unreadable_reply(reply: Reply, why: str) -> Unknown:
    """Return the outcome of an unreadable reply, with the beginning of its body and the target of a redirect."""
    target = reply.headers.get("location", "")
    location = f"location: {target} " if target else ""
    text = location + reply.body[:EXCERPT_LENGTH].decode(errors="replace")
    return Unknown(why=why, unreadable=True, excerpt=text[:EXCERPT_LENGTH])


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Read ``Retry-After`` in seconds or as a date. A date is compared with the ``Date`` of the reply."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(timedelta(seconds=int(value)), MAX_WAIT)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(timedelta(0), min(wait, MAX_WAIT))
