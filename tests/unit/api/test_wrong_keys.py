"""Wrong keys are limited per peer, with bounded memory and log. Correct keys are never limited."""

import logging
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from tests.support.api_keys import LOCAL_ACCESS, LOCAL_HEADERS, LOCAL_KEY
from tracker.api.http.access import (
    LOG_LINES_PER_MINUTE,
    PEER_LOG_INTERVAL_SECONDS,
    PEERS_REMEMBERED,
    WRONG_KEY_BURST,
    WRONG_KEY_INTERVAL_SECONDS,
    Access,
    AccessGuard,
    KeyMissing,
    KeyUnknown,
    TokenClaims,
    WrongKeys,
    peer_name,
)
from tracker.errors import HomingError, TooMany
from tracker.model.keys import ClientKey
from tracker.model.task import ClientIdentity

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LOCAL = ClientIdentity(name="local", sees_all=True)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def admit(guard: AccessGuard, authorization: str | None, peer: str | None = "203.0.113.7") -> ClientIdentity:
    headers = {"host": "127.0.0.1"} | ({"authorization": authorization} if authorization is not None else {})
    return guard.admit(headers, peer, NOW)


def refusals(guard: AccessGuard, count: int, peer: str | None = "203.0.113.7") -> list[type[HomingError]]:
    found = []
    for number in range(count):
        with pytest.raises(HomingError) as raised:
            admit(guard, f"Bearer a-wrong-key-{number}", peer)
        found.append(type(raised.value))
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> AccessGuard:
    return AccessGuard(LOCAL_ACCESS, WrongKeys(clock))


def test_wrong_keys_of_one_peer_are_limited_and_refill(guard: AccessGuard, clock: Clock) -> None:
    found = refusals(guard, WRONG_KEY_BURST + 2)
    clock.seconds += WRONG_KEY_INTERVAL_SECONDS
    found += refusals(guard, 2)

    assert found == [KeyUnknown] * WRONG_KEY_BURST + [TooMany] * 2 + [KeyUnknown, TooMany]


def test_too_many_wrong_keys_returns_retry_after(guard: AccessGuard) -> None:
    refusals(guard, WRONG_KEY_BURST)

    with pytest.raises(TooMany) as raised:
        admit(guard, "Bearer a-wrong-key")

    assert raised.value.retry_after is not None
    assert raised.value.retry_after.total_seconds() == WRONG_KEY_INTERVAL_SECONDS


def test_correct_key_behind_same_proxy_is_admitted(guard: AccessGuard) -> None:
    refusals(guard, 10 * WRONG_KEY_BURST)

    assert admit(guard, LOCAL_HEADERS["authorization"]) == LOCAL


def test_another_peer_and_missing_key_are_not_counted(guard: AccessGuard) -> None:
    for _ in range(2 * WRONG_KEY_BURST):
        with pytest.raises(KeyMissing):
            admit(guard, None)
    refusals(guard, 2 * WRONG_KEY_BURST, "203.0.113.8")

    assert refusals(guard, 1) == [KeyUnknown]


def test_wrong_keys_of_many_peers_use_bounded_memory(clock: Clock) -> None:
    wrong = WrongKeys(clock)

    for number in range(3 * PEERS_REMEMBERED):
        wrong.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    assert len(wrong._peers) == PEERS_REMEMBERED  # noqa: SLF001 - how much it keeps shows nowhere else


def test_wrong_keys_are_logged_with_peer(guard: AccessGuard, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    refusals(guard, 5)
    clock.seconds += PEER_LOG_INTERVAL_SECONDS
    refusals(guard, 1)

    assert caplog.messages == ["wrong API key: peer=203.0.113.7 count=1", "wrong API key: peer=203.0.113.7 count=5"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "a-wrong-key" not in caplog.text


def test_wrong_keys_of_many_peers_log_bounded_lines(guard: AccessGuard, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(200):
        refusals(guard, 1, f"10.0.0.{number}")

    assert len(caplog.messages) == LOG_LINES_PER_MINUTE


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unknown"),
        ("forged\nlog line", "unknown"),
    ],
)
def test_peer_is_named_by_address_or_network(address: str | None, name: str) -> None:
    assert peer_name(address) == name


def test_key_added_later_is_admitted() -> None:
    guard = AccessGuard(Access())
    with pytest.raises(KeyUnknown):
        admit(guard, LOCAL_HEADERS["authorization"])

    guard.add_key(LOCAL_KEY)

    assert admit(guard, LOCAL_HEADERS["authorization"]) == LOCAL


def test_signed_token_without_nbf_is_never_a_wrong_key(clock: Clock) -> None:
    pair = ClientKey(access="made-up-access", secret="made-up-secret-of-at-least-32-bytes!")
    guard = AccessGuard(Access(client_keys=(pair,)), WrongKeys(clock))
    token = jwt.encode({"iss": pair.access, "exp": NOW + timedelta(minutes=5)}, pair.secret, algorithm="HS256")

    for _ in range(2 * WRONG_KEY_BURST):
        with pytest.raises(TokenClaims, match="no nbf"):
            admit(guard, f"Bearer {token}")
