"""Tests of callback tokens: a token verifies exactly the task that it names."""

import base64
import hashlib
import hmac
import re

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders import OUR_ID
from tracker.rules import callback_tokens
from tracker.rules.callback_tokens import check, mint

FIRST = b"a made-up secret of 32 bytes, first"
OTHER = b"a made-up secret of 32 bytes, other"
TOKEN = mint([FIRST], provider="kling", task_id=OUR_ID)


def test_token_verifies_its_task() -> None:
    assert check(TOKEN, [FIRST], provider="kling") == OUR_ID


def test_first_secret_mints_and_all_verify() -> None:
    assert check(mint([OTHER, FIRST], provider="kling", task_id=OUR_ID), [FIRST, OTHER], provider="kling") == OUR_ID
    assert mint([FIRST, OTHER], provider="kling", task_id=OUR_ID) == TOKEN


def test_retired_secret_verifies_nothing() -> None:
    assert check(TOKEN, [OTHER], provider="kling") is None
    assert check(TOKEN, [], provider="kling") is None


def test_token_of_another_provider_is_refused() -> None:
    assert check(TOKEN, [FIRST], provider="other") is None


def test_mac_of_another_task_is_refused() -> None:
    other = mint([FIRST], provider="kling", task_id="hm0")
    forged = TOKEN.split("-", maxsplit=1)[0] + "-" + other.split("-", maxsplit=1)[1]
    assert check(forged, [FIRST], provider="kling") is None


@given(place=st.integers(0, len(TOKEN) - 1), character=st.characters(codec="ascii"))
def test_token_with_changed_character_is_refused(place: int, character: str) -> None:
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    assert check(changed, [FIRST], provider="kling") == (OUR_ID if changed == TOKEN else None)


@example(text="\udcff")
@example(text=f"{TOKEN[:20]}\ud800{TOKEN[20:]}")
@example(text=f"{TOKEN}\n")
@given(text=st.one_of(st.text(), st.text().map(lambda more: TOKEN + more), st.from_regex(r"1[0-9a-f]{8}\w+-\w{22}")))
def test_token_check_of_any_text_never_raises(text: str) -> None:
    assert check(text, [FIRST, OTHER], provider="kling") in {None, OUR_ID if text == TOKEN else None}


def documented_token(task_id: str, *, secret: bytes = FIRST, provider: str = "kling") -> str:
    """Build a token step by step, as the docstring of the module describes it."""
    key = hashlib.sha256(b"homing key id\n" + secret).hexdigest()[:8]
    covered = f"homing\n1\n{key}\n{provider}\ncallback\n{task_id}"
    mac = hmac.digest(secret, covered.encode(), "sha256")[:16]
    return f"1{key}{task_id}-{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


TASK_ID = re.compile(r"[0-9A-Za-z]{1,64}")
task_ids = st.one_of(
    st.from_regex(TASK_ID, fullmatch=True), st.text(max_size=70), st.text("aZ09-_.\n\u0661é", max_size=9)
)


@given(task_id=task_ids)
@example(task_id="")
@example(task_id="a" * 64)
@example(task_id="a" * 65)
@example(task_id="a\n")
@example(task_id="a-b")
@example(task_id="a_b")
@example(task_id="\u0661")
def test_token_with_invalid_task_id_is_refused(task_id: str) -> None:
    token = documented_token(task_id)
    assert check(token, [OTHER, FIRST], provider="kling") == (task_id if TASK_ID.fullmatch(task_id) else None)
    assert mint([FIRST], provider="kling", task_id=task_id) == token


@given(place=st.integers(0, len(TOKEN)), more=st.text(min_size=1, max_size=3), less=st.integers(1, 3))
def test_token_of_other_length_is_refused(place: int, more: str, less: int) -> None:
    assert check(TOKEN[:place] + more + TOKEN[place:], [FIRST], provider="kling") is None
    if place < len(TOKEN):
        assert check(TOKEN[:place] + TOKEN[place + less :], [FIRST], provider="kling") is None


def test_last_character_of_mac_has_one_spelling() -> None:
    # 22 characters hold four more bits than 16 bytes.
    characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    good = [character for character in characters if check(TOKEN[:-1] + character, [FIRST], provider="kling")]
    assert good == [TOKEN[-1]]


def test_task_callback_url_ends_in_its_token() -> None:
    url = callback_tokens.callback_url("https://homing.example", provider="kling", token=TOKEN)
    assert url == f"https://homing.example/callbacks/kling/{TOKEN}"


def test_shared_token_is_not_a_task_token() -> None:
    token = callback_tokens.shared_token(bytes(range(callback_tokens.SHARED_BYTES)))
    assert token.startswith(callback_tokens.SHARED_PREFIX)
    assert check(token, [FIRST], provider="kling") is None
    assert callback_tokens.shared_hash(token) != callback_tokens.shared_hash(token[:-1])
    assert len(callback_tokens.shared_hash("s\ud800")) == 64


def test_key_id_differs_and_hides_its_secret() -> None:
    assert callback_tokens.key_id(FIRST) != callback_tokens.key_id(OTHER)
    assert FIRST.hex()[:8] != callback_tokens.key_id(FIRST)
