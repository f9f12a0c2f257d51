"""The limits of untrusted texts, numbers, times and JSON documents.

Every value from a provider or a client is checked here before it reaches a batch. One hostile value cannot fail a
transaction. Both databases and every JSON parser can hold values within these limits.
"""

import codecs
from datetime import UTC, datetime
from typing import Final

import msgspec

from tracker.errors import Unreadable

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

BYTE_ORDER_MARK: Final = codecs.BOM_UTF8
DEPTH: Final = 64
LEAST_INT: Final = -(2**63)
MOST_INT: Final = 2**63 - 1
MOST_DIGITS: Final = len(str(MOST_INT))
ID_LENGTH: Final = 200
# These are not valid IDs, because as a segment of a path they would name another path.
DOTS: Final = frozenset({".", ".."})
# A larger document is read in a thread, because reading it would block the event loop for milliseconds.
READ_IN_THREAD: Final = 64 * 1024
TEXT_LENGTH: Final = 20_000
FIRST_YEAR: Final = 2000
LAST_YEAR: Final = 2100


def read_json(raw: bytes) -> JsonValue:
    """Decode ``raw`` as strict JSON within the bounds.

    Of duplicate keys, the last one counts, as in every common parser. One byte order mark before the JSON is ignored
    (RFC 8259, section 8.1).

    Raises: Unreadable, for invalid UTF-8, NUL, lone surrogates, NaN and infinities, integers beyond 64 bits, and
    nesting deeper than ``DEPTH``.
    """
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    if not raw:
        raise Unreadable("the body is empty")
    try:
        value: JsonValue = _decode(raw)
    except UnicodeDecodeError:
        raise Unreadable("the body is not UTF-8") from None
    except RecursionError:
        raise Unreadable(f"the JSON is nested deeper than {DEPTH}") from None
    except msgspec.ValidationError:
        # In an untyped document, the decoder refuses only numbers in this way: an infinite double, thousands of digits.
        raise Unreadable("a number beyond 64 bits") from None
    except msgspec.DecodeError as error:
        why = str(error).removeprefix("JSON is malformed: ")
        raise Unreadable(f"the body is not JSON: {why}") from None
    # The decoder does not check the other limits. For nearly every body, its bytes alone show that it is within them.
    # That check is much cheaper than a walk through the values.
    outline = raw.translate(_OUTLINE)
    if outline.rfind(_LONG_NUMBER) >= 0 or outline.count(_OPENING) > DEPTH or (_ESCAPE in raw and b"\\u0000" in raw):
        _check(value)
    return value


def read_object(raw: bytes) -> JsonObject:
    """Decode ``raw`` as a JSON object within the bounds, or raise Unreadable."""
    value = read_json(raw)
    if not isinstance(value, dict):
        raise Unreadable("the body is not a JSON object")
    return value


def identifier(value: object) -> str | None:
    """Return an ID as bounded text, or None if it is not valid. Some senders write numbers."""
    if not isinstance(value, str):
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        value = str(value)
    fits = value and len(value) <= ID_LENGTH and value.isprintable() and value not in DOTS
    return value if fits else None


def text(value: object, limit: int = TEXT_LENGTH) -> str:
    """Return a text, cut at ``limit`` characters. A value that is not a text becomes an empty text."""
    return value[:limit] if isinstance(value, str) else ""


def from_milliseconds(value: object) -> datetime | None:
    """Return an aware UTC time for Unix milliseconds (a number or digits), or None outside of sane years."""
    if isinstance(value, str):
        value = int(value) if len(value) <= MOST_DIGITS and value.isascii() and value.isdigit() else None
    # The exact type is checked, because a bool is also an int.
    if type(value) is not int and type(value) is not float:
        return None
    try:
        moment = datetime.fromtimestamp(value / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    return moment if FIRST_YEAR <= moment.year <= LAST_YEAR else None


def milliseconds(moment: datetime) -> int:
    """Return Unix milliseconds."""
    return int(moment.timestamp() * 1000)


_decode: Final = msgspec.json.Decoder().decode

# The outline of a document for the limits: each digit becomes 0, each opening bracket [, and all other bytes blank.
_DIGIT, _OPENING, _BLANK, _ESCAPE = b"0[ \\"
_OUTLINE: Final = bytes(
    _DIGIT if byte in b"0123456789" else _OPENING if byte in b"[{" else _BLANK for byte in range(256)
)
_LONG_NUMBER: Final = b"0" * MOST_DIGITS


def _check(root: JsonValue) -> None:
    """Walk without recursion, because the sender chooses the depth."""
    level: list[JsonValue] = [root]
    for _ in range(DEPTH + 1):
        level = _below(level)
        if not level:
            return
    raise Unreadable(f"the JSON is nested deeper than {DEPTH}")


def _below(level: list[JsonValue]) -> list[JsonValue]:
    """Check the values of one depth and return the values of the next depth."""
    below: list[JsonValue] = []
    for value in level:
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, int):
            if not LEAST_INT <= value <= MOST_INT:
                raise Unreadable("an integer beyond 64 bits")
        elif isinstance(value, dict):
            _check_text("".join(value))
            below.extend(value.values())
        elif isinstance(value, list):
            below.extend(value)
    return below


def _check_text(value: str) -> None:
    if "\0" in value:
        raise Unreadable("the JSON holds a NUL character")
