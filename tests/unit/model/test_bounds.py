"""Tests of the bounds of untrusted input."""

import json
import math
import sys
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.errors import Unreadable
from tracker.model import untrusted

json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    ),
    lambda below: st.one_of(
        st.lists(below, max_size=4), st.dictionaries(st.text("abc", max_size=2), below, max_size=4)
    ),
    max_leaves=12,
)


# Fragments that build documents near the bounds and beyond them.
WORDS = r"""
a "a" "a": {"a": [[ ]] "" [] {} true false null NaN Infinity -Infinity tru // ' . .5 e e5 E+308 e-400 e309 + - -0 0 1
9223372036854775807 9223372036854775808 -9223372036854775808 18446744073709551616 0.1234567890123456789
\ \" \/ \n \x \u \u0000 \\u0000 \u00e9 \ud800 \udc00 \ud83d\ude00
"""
MARKS = '{}[]":, \t\n\x0b\u00a0\ufeff\x00\x1f\x7fé语😀'
RUNS = ("[" * 64, "]" * 64, '{"b":' * 63, "}" * 63, "1" * 18, "1" * 400, "1" * 4301)
pieces = st.sampled_from([*WORDS.split(), *MARKS, *RUNS])


def refuse(constant: str) -> float:
    raise ValueError(constant)


def writable(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse infinities and lone surrogates, even if a later key with the same name hides them."""
    json.dumps(pairs, allow_nan=False, ensure_ascii=False).encode()
    return dict(pairs)


def read_by_the_book(text: str) -> untrusted.JsonValue:
    """Read JSON within the bounds with the standard library.

    Raises: ValueError if the JSON is beyond the bounds.
    """
    value: untrusted.JsonValue = json.loads(text, parse_constant=refuse, object_pairs_hook=writable)
    writable([("", value)])
    check_by_the_book(value, untrusted.DEPTH)
    return value


def check_by_the_book(value: untrusted.JsonValue, depth: int) -> None:
    if isinstance(value, str) and "\0" in value:
        raise ValueError("NUL")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("beyond 64 bits")
    if isinstance(value, dict | list):
        if not depth and value:
            raise ValueError("too deep")
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            check_by_the_book(each, depth - 1)


@given(
    parts=st.lists(pieces, max_size=12), wrapped=st.sampled_from(["%s", "[%s]", '["%s"]', '{"a":[%s,1]}', '{"%s":0}'])
)
def test_json_reader_matches_standard_library(parts: list[str], wrapped: str) -> None:
    document = wrapped % "".join(parts)
    try:
        expected = repr(read_by_the_book(document))
    except ValueError:
        with pytest.raises(Unreadable):
            untrusted.read_json(document.encode())
    else:
        assert repr(untrusted.read_json(document.encode())) == expected


@given(value=json_values)
def test_json_within_bounds_is_read_unchanged(value: untrusted.JsonValue) -> None:
    assert untrusted.read_json(json.dumps(value).encode()) == value


@given(raw=st.one_of(st.binary(), st.text('[]{}",:0123456789eE.-+ \\unaNtrfls').map(str.encode)))
def test_any_bytes_are_read_or_raise_unreadable(raw: bytes) -> None:
    try:
        value = untrusted.read_json(raw)
    except Unreadable:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'"\\ud83d\\u0041"',
        b'"\\ude00\\ud83d"',
        b'{"a": "\\ud800", "a": 1}',
        b'"a\\u0000b"',
        b'{"a\\u0000": 1}',
        b'["\\\\\\u0000"]',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"1" * 4300,
        b"1" * 5000,
        b"1" * 400 + b".0",
        b"[" * 100_000,
        b'{"a":' * 66 + b"1" + b"}" * 66,
        b"[" * 66 + b"]" * 66,
        b"[" * 65 + b"1" + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[1] x",
        b"[1,]",
        b"01",
        b".5",
        b"// 1\n1",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b'"a\nb"',
        b'{"a\xff": 1}',
    ],
)
def test_json_beyond_bounds_is_refused(raw: bytes) -> None:
    with pytest.raises(Unreadable) as refused:
        untrusted.read_json(raw)
    assert len(refused.value.detail) < 100


def test_json_after_byte_order_mark_is_read() -> None:
    assert untrusted.read_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "the body is empty"),
        (b"\xef\xbb\xbf", "the body is empty"),
        (b'{"a": 1,}', "the body is not JSON: trailing comma in object (byte 8)"),
        ('{"ä": x}'.encode(), "the body is not JSON: invalid character (byte 7)"),
        (b'{"a": "\xff"}', "the body is not UTF-8"),
        (b'"\\ud800-----"', "the body is not JSON: unexpected end of escaped utf-16 surrogate pair (byte 7)"),
        (b'{"a": "\\u0000"}', "the JSON holds a NUL character"),
        (b'{"a": [1e999]}', "a number beyond 64 bits"),
        (b"1" * 5000, "a number beyond 64 bits"),
        (b"9223372036854775808", "an integer beyond 64 bits"),
        (b"[" * 66 + b"]" * 66, "the JSON is nested deeper than 64"),
        (b"[" * 100_000, "the JSON is nested deeper than 64"),
    ],
)
def test_refusal_names_the_reason(raw: bytes, why: str) -> None:
    with pytest.raises(Unreadable) as refused:
        untrusted.read_json(raw)
    assert refused.value.detail == why


@pytest.mark.parametrize(
    "fault", [b"1e999", b"9" * 19, b"9" * 5000, b'"\\u0000"', b'"\\ud800"', b'"\xff"', b"x", b'"a\n"', b"[" * 99, b""]
)
def test_refusal_does_not_show_the_body(fault: bytes) -> None:
    with pytest.raises(Unreadable) as refused:
        untrusted.read_json(b'{"made-up-secret": [{"made-up-secret": ' + fault)
    assert "secret" not in refused.value.detail


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'["' + b"1" * 400 + b'"]', ["1" * 400]),
        (b"[0.1234567890123456789012, -0, -0.0]", [0.12345678901234568, 0, -0.0]),
        (b"[1e-999, 0e999, 1e5, 9223372036854775808.0]", [0.0, 0.0, 100_000.0, 2.0**63]),
        (b"1" * 400 + b"e-200", 1.1111111111111111e199),
        (rb'["\\u0000", "\ud83d\ude00", "\/", "\u001f"]', ["\\u0000", "😀", "/", "\x1f"]),
        (b"[" + b"[{}], " * 100 + b"[]]", [[{}]] * 100 + [[]]),
        (b'{"a": 1, "b": 2, "a": 3}', {"a": 3, "b": 2}),
        (b" \t\r\n1 \t\r\n", 1),
    ],
)
def test_json_that_only_looks_too_large_is_read(raw: bytes, expected: object) -> None:
    assert repr(untrusted.read_json(raw)) == repr(expected)


def test_json_at_the_bounds_is_accepted() -> None:
    assert untrusted.read_json(b"[-9223372036854775808, 9223372036854775807]") == [-(2**63), 2**63 - 1]
    deep: object = untrusted.read_json(b"[" * untrusted.DEPTH + b"1" + b"]" * untrusted.DEPTH)
    for _ in range(untrusted.DEPTH):
        assert isinstance(deep, list)
        deep = deep[0]
    assert deep == 1


@pytest.mark.parametrize("raw", [b"[%s]", b'{"a": [[1, %s]]}'])
@pytest.mark.parametrize("number", [b"9223372036854775808", b"-9223372036854775809", b"1" * 5000])
def test_number_beyond_64_bits_is_refused(raw: bytes, number: bytes) -> None:
    with pytest.raises(Unreadable):
        untrusted.read_json(raw % number)


def test_long_list_makes_few_python_calls() -> None:
    raw = json.dumps(list(range(10_000))).encode()
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        del frame, argument
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        untrusted.read_json(raw)
    finally:
        sys.setprofile(before)
    assert calls < 100


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"text"', b"null"])
def test_json_other_than_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        untrusted.read_object(raw)


@pytest.mark.parametrize(("value", "expected"), [("a-1", "a-1"), (17, "17"), ("ä ö", "ä ö"), ("a" * 200, "a" * 200)])
def test_identifier_is_bounded_text(value: object, expected: str) -> None:
    assert untrusted.identifier(value) == expected


@pytest.mark.parametrize("value", [".", ".."])
def test_dot_segment_is_not_an_identifier(value: str) -> None:
    assert untrusted.identifier(value) is None
    assert untrusted.identifier(f"{value}.a") == f"{value}.a"


@pytest.mark.parametrize("value", [None, "", True, 1.5, [], {}, "a\nb", "a\0", "\ud800", "a" * 201, 10**200])
def test_invalid_identifier_is_none(value: object) -> None:
    assert untrusted.identifier(value) is None


@pytest.mark.parametrize("value", [1_795_000_000_000, "1795000000000", 1_795_000_000_000.0])
def test_milliseconds_are_read_from_number_or_digits(value: object) -> None:
    assert untrusted.from_milliseconds(value) == datetime.fromtimestamp(1_795_000_000, UTC)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, "", "soon", "²", "1" * 30, "1" * 5000, "00000001795000000000", [], {}),
        *(-1, 0, 10**15, 10**400, math.nan, math.inf, -math.inf),
    ],
)
def test_invalid_milliseconds_are_none(value: object) -> None:
    assert untrusted.from_milliseconds(value) is None


@given(moment=st.datetimes(datetime(2000, 1, 2), datetime(2100, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001 - Hypothesis wants naive bounds
def test_milliseconds_survive_a_round_trip(moment: datetime) -> None:
    back = untrusted.from_milliseconds(untrusted.milliseconds(moment))
    assert back is not None
    assert abs((back - moment).total_seconds()) < 0.001


def test_long_text_is_cut_and_non_text_is_empty() -> None:
    assert untrusted.text("abc", 2) == "ab"
    assert untrusted.text(None) == untrusted.text(7) == untrusted.text([]) == ""
