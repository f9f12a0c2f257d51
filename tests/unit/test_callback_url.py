"""Callback addresses: the token proves the task that it names, and nothing else does."""

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import OUR_ID
from tracker import callback_url
from tracker.callback_url import check, mint

FIRST = b"a made-up secret of 32 bytes, first"
OTHER = b"a made-up secret of 32 bytes, other"
TOKEN = mint([FIRST], provider="kling", task_id=OUR_ID)


def test_a_token_proves_the_task_it_was_minted_for() -> None:
    assert check(TOKEN, [FIRST], provider="kling") == OUR_ID


def test_the_first_secret_mints_and_all_verify() -> None:
    assert check(mint([OTHER, FIRST], provider="kling", task_id=OUR_ID), [FIRST, OTHER], provider="kling") == OUR_ID
    assert mint([FIRST, OTHER], provider="kling", task_id=OUR_ID) == TOKEN


def test_a_retired_secret_proves_nothing() -> None:
    assert check(TOKEN, [OTHER], provider="kling") is None
    assert check(TOKEN, [], provider="kling") is None


def test_a_token_for_one_provider_is_worth_nothing_at_another() -> None:
    assert check(TOKEN, [FIRST], provider="other") is None


def test_the_mac_of_one_task_does_not_fit_another() -> None:
    other = mint([FIRST], provider="kling", task_id="hm0")
    forged = TOKEN.split("-", maxsplit=1)[0] + "-" + other.split("-", maxsplit=1)[1]
    assert check(forged, [FIRST], provider="kling") is None


@given(place=st.integers(0, len(TOKEN) - 1), letter=st.characters(codec="ascii"))
def test_one_changed_character_is_refused(place: int, letter: str) -> None:
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    assert check(changed, [FIRST], provider="kling") == (OUR_ID if changed == TOKEN else None)


@given(text=st.one_of(st.text(), st.text().map(lambda more: TOKEN + more), st.from_regex(r"1[0-9a-f]{8}\w+-\w{22}")))
def test_any_text_is_answered_without_an_error(text: str) -> None:
    assert check(text, [FIRST, OTHER], provider="kling") in {None, OUR_ID if text == TOKEN else None}


def test_an_address_ends_in_its_token() -> None:
    url = callback_url.address("https://homing.example", provider="kling", token=TOKEN)
    assert url == f"https://homing.example/callbacks/kling/{TOKEN}"


def test_a_standing_token_cannot_be_taken_for_a_task_s_and_its_hash_is_what_is_kept() -> None:
    token = callback_url.standing_token(bytes(range(callback_url.STANDING_BYTES)))
    assert token.startswith(callback_url.STANDING_PREFIX)
    assert check(token, [FIRST], provider="kling") is None
    assert callback_url.standing_hash(token) != callback_url.standing_hash(token[:-1])
    assert len(callback_url.standing_hash("s\ud800")) == 64


def test_a_key_id_tells_secrets_apart_and_does_not_tell_them() -> None:
    assert callback_url.key_id(FIRST) != callback_url.key_id(OTHER)
    assert FIRST.hex()[:8] != callback_url.key_id(FIRST)
