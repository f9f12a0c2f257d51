"""What a stranger may send: the bounds of a text, a number, a time and a JSON document.

Everything that comes from a provider or a caller passes here before it reaches a batch, so that one hostile value can
fail neither a transaction nor its neighbours. The bounds are what both databases and every JSON reader can hold.
"""

import json
import math
from datetime import UTC, datetime
from typing import Final

from tracker.errors import Unreadable

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

DEPTH: Final = 64
LEAST_INT: Final = -(2**63)
MOST_INT: Final = 2**63 - 1
ID_LENGTH: Final = 200
# What is no id of anything: as a segment of a path it would name another path.
DOTS: Final = frozenset({".", ".."})
# Reading more than this holds an event loop for milliseconds: it is done in a thread.
READ_IN_THREAD: Final = 64 * 1024
TEXT_LENGTH: Final = 20_000
FIRST_YEAR: Final = 2000
LAST_YEAR: Final = 2100


def read_json(raw: bytes) -> JsonValue:
    """Decode ``raw`` as strict JSON within the bounds.

    Raises Unreadable for anything else: bad UTF-8, NUL, lone surrogates, NaN and infinities, integers beyond 64 bits,
    nesting deeper than ``DEPTH``. Duplicate keys follow the last, as in every common reader.
    """
    try:
        text = raw.decode("utf-8")
        value: JsonValue = _decode(text)
    except UnicodeDecodeError:
        raise Unreadable("the body is not UTF-8") from None
    except RecursionError:
        raise Unreadable(f"the JSON is nested deeper than {DEPTH}") from None
    except ValueError as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise Unreadable(f"the body is not JSON{place}") from None
    # UTF-8 has no surrogates and JSON no bare NUL: a text can hold one only where it was written as an escape.
    _check(value, escapes="\\u" in text)
    return value


def read_object(raw: bytes) -> JsonObject:
    """Decode ``raw`` as a JSON object within the bounds, or raise Unreadable."""
    value = read_json(raw)
    if not isinstance(value, dict):
        raise Unreadable("the body is not a JSON object")
    return value


def identifier(value: object) -> str | None:
    """Give an id as bounded text (some senders write numbers), or None where there is none to be had."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value or len(value) > ID_LENGTH or not value.isprintable():
        return None
    return None if value in DOTS else value


def text(value: object, limit: int = TEXT_LENGTH) -> str:
    """Give a free text, cut at ``limit`` characters; anything that is no text is the empty one."""
    return value[:limit] if isinstance(value, str) else ""


def from_milliseconds(value: object) -> datetime | None:
    """Give an aware UTC time for Unix milliseconds (number or digits) in sane years, else None."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value) if len(value) <= len(str(MOST_INT)) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        moment = datetime.fromtimestamp(value / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    return moment if FIRST_YEAR <= moment.year <= LAST_YEAR else None


def milliseconds(moment: datetime) -> int:
    """Give Unix milliseconds."""
    return int(moment.timestamp() * 1000)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


# Made once: a decoder with a hook of ours would be made anew for each body.
_decode: Final = json.JSONDecoder(parse_constant=_no_constant).decode


def _check(root: JsonValue, *, escapes: bool) -> None:
    """Walk without recursion (the depth is the stranger's choice); look into texts only where there are ``escapes``."""
    level: list[JsonValue] = [root]
    for _ in range(DEPTH + 1):
        level = _below(level, escapes=escapes)
        if not level:
            return
    raise Unreadable(f"the JSON is nested deeper than {DEPTH}")


def _below(level: list[JsonValue], *, escapes: bool) -> list[JsonValue]:
    """Check each value of one depth and give those of the next."""
    below: list[JsonValue] = []
    for value in level:
        if isinstance(value, str):
            if escapes:
                _check_text(value)
        elif isinstance(value, int):
            if not LEAST_INT <= value <= MOST_INT:
                raise Unreadable("an integer beyond 64 bits")
        elif isinstance(value, dict):
            if escapes:
                _check_text("".join(value))
            below.extend(value.values())
        elif isinstance(value, list):
            below.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise Unreadable("a number beyond the range of a double")
    return below


def _check_text(value: str) -> None:
    if "\0" in value:
        raise Unreadable("the JSON holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Unreadable("the JSON holds a lone surrogate") from None
