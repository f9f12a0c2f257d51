"""Authentication and host checks as pure functions."""

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
    AccessGuard,
    KeyExpired,
    KeyMissing,
    KeyTooEarly,
    KeyUnknown,
    TokenClaims,
    WrongHost,
    admit,
    check_keys,
)
from tracker.errors import NotAuthenticated, SettingsError
from tracker.model.keys import ClientKey, NamedKey
from tracker.model.task import ClientIdentity

# This is far from the real time, so a test fails if the code does not use the given time.
NOW = datetime(2041, 11, 23, 12, tzinfo=UTC)
SECRET = "made-up-secret-of-at-least-32-bytes!"
STUDIO = NamedKey(name="studio", key="made-up-studio-key")
OPERATOR = NamedKey(name="operator", key="made-up-operator-key", sees_all=True)
PAIR = ClientKey(access="made-up-access", secret=SECRET)
KEYED = Access(
    api_keys=(STUDIO, OPERATOR), client_keys=(PAIR,), host="127.0.0.1", public_url="https://homing.example.com"
)


def ask(access: Access, **headers: str) -> ClientIdentity:
    sent = {"host": "127.0.0.1:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return admit(access, sent, NOW)


def a_token(claims: Mapping[str, Any] | None = None, secret: str = SECRET, **options: Any) -> str:
    usual = {"iss": PAIR.access, "exp": NOW + timedelta(minutes=30), "nbf": NOW - timedelta(seconds=5)}
    present = {name: value for name, value in (usual | dict(claims or {})).items() if value is not None}
    return jwt.encode(present, secret, **({"algorithm": "HS256"} | options))


def with_token(token: str) -> ClientIdentity:
    return ask(KEYED, authorization=f"Bearer {token}")


def test_named_key_identifies_its_client() -> None:
    assert ask(KEYED, authorization="Bearer made-up-studio-key") == ClientIdentity(name="studio", sees_all=False)
    assert ask(KEYED, authorization="bearer  made-up-operator-key ") == ClientIdentity(name="operator", sees_all=True)


def test_both_keys_of_client_work_during_rotation() -> None:
    access = Access(api_keys=(STUDIO, NamedKey(name="studio", key="made-up-new-key")))
    assert ask(access, authorization="Bearer made-up-new-key").name == "studio"
    assert ask(access, authorization="Bearer made-up-studio-key").name == "studio"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer   ", "Basic bWFkZTp1cA==", "made-up-studio-key"])
def test_missing_bearer_key_is_reported_missing(header: str) -> None:
    with pytest.raises(KeyMissing):
        ask(KEYED, authorization=header)


@pytest.mark.parametrize(
    "key", ["made-up-studio-ke", "made-up-studio-key2", "MADE-UP-STUDIO-KEY", "a.b.c", "..", "é", "x" * 100_000]
)
def test_other_key_is_unknown(key: str) -> None:
    with pytest.raises(KeyUnknown):
        with_token(key)


def test_keys_are_hidden_in_repr() -> None:
    shown = repr(KEYED)
    assert "studio" in shown
    assert not [secret for secret in (STUDIO.key, OPERATOR.key, SECRET) if secret in shown]


def test_official_token_identifies_its_access_key() -> None:
    assert with_token(a_token()) == ClientIdentity(name="made-up-access", sees_all=False)


@pytest.mark.parametrize("claim", ["iss", "exp", "nbf"])
def test_token_without_required_claim_is_unknown(claim: str) -> None:
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
def test_token_times_have_30_seconds_of_leeway(claims: Mapping[str, Any], error: type[NotAuthenticated] | None) -> None:
    if error is None:
        assert with_token(a_token(claims)).name == PAIR.access
    else:
        with pytest.raises(error):
            with_token(a_token(claims))


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "soon", [], {}, -(10**400)])
@pytest.mark.parametrize("claim", ["exp", "nbf"])
def test_absurd_token_times_are_refused(claim: str, value: object) -> None:
    with pytest.raises(KeyUnknown):
        with_token(a_token({claim: value}))


@pytest.mark.parametrize("claim", ["exp", "nbf"])
def test_signed_token_without_claim_names_the_claim(claim: str) -> None:
    with pytest.raises(TokenClaims, match=f"the token has no {claim}. Sign iss, exp and nbf"):
        with_token(a_token({claim: None}))
    with pytest.raises(KeyUnknown, match="the key is unknown"):
        with_token(a_token({claim: None}, secret="x" * 32))


def test_token_of_other_secret_or_issuer_is_unknown() -> None:
    claims = {"iss": [PAIR.access], "exp": NOW.timestamp(), "nbf": NOW.timestamp()}
    odd = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")
    for token in (a_token(secret="x" * 32), a_token({"iss": "somebody-else"}), odd):
        with pytest.raises(KeyUnknown):
            with_token(token)


def test_token_algorithm_is_pinned() -> None:
    unsigned = jwt.encode({"iss": PAIR.access, "exp": NOW, "nbf": NOW}, "", algorithm="none")
    for token in (a_token(algorithm="HS512", secret=SECRET * 2), unsigned):
        with pytest.raises(KeyUnknown):
            with_token(token)


def test_token_without_client_keys_is_not_read() -> None:
    with pytest.raises(KeyUnknown):
        ask(Access(api_keys=(STUDIO,)), authorization=f"Bearer {a_token()}")


def _part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


HEADER = _part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda raw: f"{HEADER}.{_part(raw)}.{_part(raw)}")))
def test_any_text_as_token_raises_only_not_authenticated(text: str) -> None:
    with pytest.raises(NotAuthenticated):
        with_token(text)


def test_deeply_nested_token_is_unknown() -> None:
    for part in (b"[" * 2500, b'{"a":' * 500):
        with pytest.raises(KeyUnknown):
            with_token(f"{HEADER}.{_part(part)}.AAAA")


@pytest.mark.parametrize("authorization", ["", "Bearer made-up-studio-key"])
def test_access_without_keys_admits_no_client(authorization: str) -> None:
    with pytest.raises(NotAuthenticated):
        ask(Access(), authorization=authorization)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", None])
def test_peer_without_key_is_not_admitted(peer: str | None) -> None:
    with pytest.raises(KeyMissing):
        AccessGuard(KEYED).admit({"host": "127.0.0.1"}, peer, NOW)


def known(access: Access, host: str) -> bool:
    try:
        admit(access, {"host": host, "authorization": "Bearer made-up-studio-key"}, NOW)
    except WrongHost:
        return False
    return True


def test_host_other_than_own_names_is_refused() -> None:
    access = Access(
        api_keys=(STUDIO,), host="10.0.0.5", public_url="https://homing.example.com/x", hosts=("homing.internal:8000",)
    )
    ours = ["10.0.0.5:8000", "homing.example.com", "HOMING.example.com:443", "homing.internal", "127.0.0.1:8000"]
    theirs = ["10.0.0.6", "example.com", "evil.homing.example.com", "", "a b", "homing.example.com/x"]
    assert [host for host in (*ours, *theirs) if known(access, host)] == ours


def test_wildcard_bind_accepts_ips_and_refuses_other_names() -> None:
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
def test_weak_key_is_refused_and_not_shown(access: Access) -> None:
    with pytest.raises(SettingsError) as raised:
        check_keys(access)
    assert "thirty-one" not in raised.value.detail
    assert "fifteen" not in raised.value.detail


@pytest.mark.parametrize("odd", ["'", '"', ";", ":", ",", "|", " ", "\\", "é", "\x7f"])
def test_key_with_quote_or_separator_is_refused(odd: str) -> None:
    for key in (f"{odd}made-up-studio-key", f"made-up-{odd}studio-key", f"made-up-studio-key{odd}"):
        with pytest.raises(SettingsError):
            check_keys(Access(api_keys=(NamedKey(name="studio", key=key),)))
