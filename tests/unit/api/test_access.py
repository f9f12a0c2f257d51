"""Who may call, as decisions over values."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.api.http.access import (
    Access,
    KeyExpired,
    KeyMissing,
    KeyTooEarly,
    KeyUnknown,
    TokenClaims,
    WrongHost,
    admit,
    check_keys,
)
from tracker.api.http.access_guard import AccessGuard
from tracker.errors import NotAuthenticated, SettingsError
from tracker.model.keys import ClientKey, NamedKey
from tracker.model.task import ClientIdentity

# Far from any real clock: a token is judged by the clock that is passed in.
NOW = datetime(2041, 11, 23, 12, tzinfo=UTC)
SECRET = "made-up-secret-of-at-least-32-bytes!"
STUDIO = NamedKey(name="studio", key="made-up-studio-key")
OPERATOR = NamedKey(name="operator", key="made-up-operator-key", sees_all=True)
PAIR = ClientKey(access="made-up-access", secret=SECRET)
KEYED = Access(
    api_keys=(STUDIO, OPERATOR), client_keys=(PAIR,), host="127.0.0.1", public_url="https://homing.example.com"
)


def ask(access: Access, **headers: str) -> ClientIdentity:
    told = {"host": "127.0.0.1:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return admit(access, told, NOW)


def a_token(claims: Mapping[str, Any] | None = None, secret: str = SECRET, **options: Any) -> str:
    usual = {"iss": PAIR.access, "exp": NOW + timedelta(minutes=30), "nbf": NOW - timedelta(seconds=5)}
    told = {name: value for name, value in (usual | dict(claims or {})).items() if value is not None}
    return jwt.encode(told, secret, **({"algorithm": "HS256"} | options))


def with_token(token: str) -> ClientIdentity:
    return ask(KEYED, authorization=f"Bearer {token}")


def test_a_named_key_is_its_client() -> None:
    assert ask(KEYED, authorization="Bearer made-up-studio-key") == ClientIdentity(name="studio", sees_all=False)
    assert ask(KEYED, authorization="bearer  made-up-operator-key ") == ClientIdentity(name="operator", sees_all=True)


def test_the_old_and_the_new_key_of_a_client_both_work_while_they_are_exchanged() -> None:
    access = Access(api_keys=(STUDIO, NamedKey(name="studio", key="made-up-new-key")))
    assert ask(access, authorization="Bearer made-up-new-key").name == "studio"
    assert ask(access, authorization="Bearer made-up-studio-key").name == "studio"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer   ", "Basic bWFkZTp1cA==", "made-up-studio-key"])
def test_without_a_bearers_key_the_key_is_missing(header: str) -> None:
    with pytest.raises(KeyMissing):
        ask(KEYED, authorization=header)


@pytest.mark.parametrize(
    "key", ["made-up-studio-ke", "made-up-studio-key2", "MADE-UP-STUDIO-KEY", "a.b.c", "..", "é", "x" * 100_000]
)
def test_any_other_key_is_unknown(key: str) -> None:
    with pytest.raises(KeyUnknown):
        with_token(key)


def test_keys_are_not_in_the_text_of_their_values() -> None:
    told = repr(KEYED)
    assert "studio" in told
    assert not [secret for secret in (STUDIO.key, OPERATOR.key, SECRET) if secret in told]


def test_the_official_token_is_its_access_keys_client() -> None:
    assert with_token(a_token()) == ClientIdentity(name="made-up-access", sees_all=False)


@pytest.mark.parametrize("claim", ["iss", "exp", "nbf"])
def test_a_token_without_one_of_its_claims_is_unknown(claim: str) -> None:
    with pytest.raises(KeyUnknown):
        with_token(a_token({claim: None}))


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": NOW - timedelta(seconds=29)}, None),
        ({"exp": NOW - timedelta(seconds=30)}, KeyExpired),
        ({"nbf": NOW + timedelta(seconds=30)}, None),
        ({"nbf": NOW + timedelta(seconds=31)}, KeyTooEarly),
        ({"exp": NOW + timedelta(hours=24)}, None),
        ({"exp": NOW + timedelta(hours=24, seconds=31)}, KeyUnknown),
        ({"iat": NOW + timedelta(hours=1)}, None),
    ],
)
def test_a_tokens_times_have_half_a_minute_of_leeway(
    claims: Mapping[str, Any], error: type[NotAuthenticated] | None
) -> None:
    if error is None:
        assert with_token(a_token(claims)).name == PAIR.access
    else:
        with pytest.raises(error):
            with_token(a_token(claims))


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "soon", [], {}, -(10**400)])
@pytest.mark.parametrize("claim", ["exp", "nbf"])
def test_absurd_times_are_refused(claim: str, value: object) -> None:
    with pytest.raises(KeyUnknown):
        with_token(a_token({claim: value}))


@pytest.mark.parametrize("claim", ["exp", "nbf"])
def test_a_signed_token_without_a_claim_is_told_which(claim: str) -> None:
    with pytest.raises(TokenClaims, match=f"the token has no {claim}; sign iss, exp and nbf"):
        with_token(a_token({claim: None}))
    with pytest.raises(KeyUnknown, match="the key is not known"):
        with_token(a_token({claim: None}, secret="x" * 32))


def test_a_token_of_another_secret_or_issuer_is_unknown() -> None:
    claims = {"iss": [PAIR.access], "exp": NOW.timestamp(), "nbf": NOW.timestamp()}
    odd = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")
    for token in (a_token(secret="x" * 32), a_token({"iss": "somebody-else"}), odd):
        with pytest.raises(KeyUnknown):
            with_token(token)


def test_the_algorithm_is_pinned() -> None:
    unsigned = jwt.encode({"iss": PAIR.access, "exp": NOW, "nbf": NOW}, "", algorithm="none")
    for token in (a_token(algorithm="HS512", secret=SECRET * 2), unsigned):
        with pytest.raises(KeyUnknown):
            with_token(token)


def test_without_pairs_no_token_is_read() -> None:
    with pytest.raises(KeyUnknown):
        ask(Access(api_keys=(STUDIO,)), authorization=f"Bearer {a_token()}")


def _part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


HEADER = _part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda raw: f"{HEADER}.{_part(raw)}.{_part(raw)}")))
def test_any_text_at_all_raises_only_that_it_proves_nobody(text: str) -> None:
    with pytest.raises(NotAuthenticated):
        with_token(text)


def test_a_deeply_nested_token_proves_nobody() -> None:
    for part in (b"[" * 2500, b'{"a":' * 500):
        with pytest.raises(KeyUnknown):
            with_token(f"{HEADER}.{_part(part)}.AAAA")


@pytest.mark.parametrize("authorization", ["", "Bearer made-up-studio-key"])
def test_without_keys_nobody_is_admitted(authorization: str) -> None:
    with pytest.raises(NotAuthenticated):
        ask(Access(), authorization=authorization)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", None])
def test_no_peer_is_admitted_without_a_key(peer: str | None) -> None:
    with pytest.raises(KeyMissing):
        AccessGuard(KEYED).admit({"host": "127.0.0.1"}, peer, NOW)


def known(access: Access, host: str) -> bool:
    try:
        admit(access, {"host": host, "authorization": "Bearer made-up-studio-key"}, NOW)
    except WrongHost:
        return False
    return True


def test_with_keys_only_our_own_names_are_answered() -> None:
    access = Access(
        api_keys=(STUDIO,), host="10.0.0.5", public_url="https://homing.example.com/x", hosts=("homing.internal:8000",)
    )
    ours = ["10.0.0.5:8000", "homing.example.com", "HOMING.example.com:443", "homing.internal", "127.0.0.1:8000"]
    theirs = ["10.0.0.6", "example.com", "evil.homing.example.com", "", "a b", "homing.example.com/x"]
    assert [host for host in (*ours, *theirs) if known(access, host)] == ours


def test_bound_to_every_address_a_numeric_host_is_ours_and_a_strangers_name_is_not() -> None:
    access = Access(api_keys=(STUDIO,), host="0.0.0.0")
    assert known(access, "192.168.1.4:8000")
    assert known(access, "[fd00::1]:8000")
    assert not known(access, "rebound.example.com")
    assert not known(access, "0.0.0.0.example.com")


def test_access_without_keys_says_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match=r"`homing key NAME`.*HOMING_API_KEYS"):
        check_keys(Access())


def test_one_key_of_either_kind_is_enough() -> None:
    check_keys(Access(api_keys=(STUDIO,)))
    check_keys(Access(client_keys=(PAIR,)))


@pytest.mark.parametrize(
    "access",
    [
        Access(api_keys=(NamedKey(name="studio", key=""),)),
        Access(api_keys=(NamedKey(name="", key="made-up-studio-key"),)),
        Access(api_keys=(STUDIO, NamedKey(name="shop", key="fifteen-letters"))),
        Access(client_keys=(ClientKey(access="made-up-access", secret="thirty-one-bytes-are-not-enough"),)),
        Access(client_keys=(ClientKey(access="", secret=SECRET),)),
    ],
)
def test_a_weak_key_is_refused_and_not_told(access: Access) -> None:
    with pytest.raises(SettingsError) as raised:
        check_keys(access)
    assert "thirty-one" not in raised.value.detail
    assert "fifteen" not in raised.value.detail


@pytest.mark.parametrize("odd", ["'", '"', ";", ":", ",", "|", " ", "\\", "é", "\x7f"])
def test_a_key_with_a_quote_or_a_separator_is_refused(odd: str) -> None:
    for key in (f"{odd}made-up-studio-key", f"made-up-{odd}studio-key", f"made-up-studio-key{odd}"):
        with pytest.raises(SettingsError):
            check_keys(Access(api_keys=(NamedKey(name="studio", key=key),)))
