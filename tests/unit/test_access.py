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

from tracker.api.access import (
    FORWARDED,
    LOCAL,
    Access,
    Asked,
    ClientKey,
    KeyExpired,
    KeyMissing,
    KeyTooEarly,
    KeyUnknown,
    NamedKey,
    WrongHost,
    admit,
    check_start,
)
from tracker.errors import Forbidden, NotAuthenticated, SettingsError
from tracker.models import Caller

# Far from any real clock: a token is judged by the clock that is passed in.
NOW = datetime(2041, 11, 23, 12, tzinfo=UTC)
SECRET = "made-up-secret-of-at-least-32-bytes!"
STUDIO = NamedKey(name="studio", key="made-up-studio-key")
OPERATOR = NamedKey(name="operator", key="made-up-operator-key", sees_all=True)
PAIR = ClientKey(access="made-up-access", secret=SECRET)
KEYED = Access(
    api_keys=(STUDIO, OPERATOR), client_keys=(PAIR,), host="127.0.0.1", public_url="https://homing.example.com"
)


def ask(access: Access, peer: str | None = "127.0.0.1", **headers: str) -> Caller:
    told = {"host": "127.0.0.1:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return admit(access, Asked(headers=told, peer=peer), NOW)


def a_token(claims: Mapping[str, Any] | None = None, secret: str = SECRET, **options: Any) -> str:
    usual = {"iss": PAIR.access, "exp": NOW + timedelta(minutes=30), "nbf": NOW - timedelta(seconds=5)}
    told = {name: value for name, value in (usual | dict(claims or {})).items() if value is not None}
    return jwt.encode(told, secret, **({"algorithm": "HS256"} | options))


def with_token(token: str) -> Caller:
    return ask(KEYED, authorization=f"Bearer {token}")


def test_a_named_key_is_its_client() -> None:
    assert ask(KEYED, authorization="Bearer made-up-studio-key") == Caller(name="studio", sees_all=False)
    assert ask(KEYED, authorization="bearer  made-up-operator-key ") == Caller(name="operator", sees_all=True)


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
    assert with_token(a_token()) == Caller(name="made-up-access", sees_all=False)


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


OPEN = Access()


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.8.9.1"])
def test_without_keys_this_machines_user_is_answered(host: str) -> None:
    assert ask(OPEN, host=host) == LOCAL


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example.com",
        "127.0.0.1.evil.example.com",
        "localhost.evil.example.com",
        "user@127.0.0.1",
        "192.168.1.4",
    ],
)
def test_without_keys_another_host_header_is_refused(host: str) -> None:
    with pytest.raises(WrongHost):
        ask(OPEN, host=host)


def test_without_keys_a_further_host_is_refused_all_the_same() -> None:
    with pytest.raises(Forbidden):
        ask(Access(hosts=("homing.example.com",)), host="homing.example.com")


@pytest.mark.parametrize("peer", ["192.168.1.4", "8.8.8.8", None, "nonsense"])
def test_without_keys_another_peer_is_refused(peer: str | None) -> None:
    with pytest.raises(Forbidden):
        ask(OPEN, peer=peer)


@pytest.mark.parametrize("access", [Access(host="0.0.0.0"), Access(public_url="https://homing.example.com")])
def test_without_keys_a_public_address_or_bind_answers_nobody(access: Access) -> None:
    with pytest.raises(Forbidden):
        ask(access)


@pytest.mark.parametrize("name", [*FORWARDED, "x-forwarded-for", "x-forwarded-proto", "x-forwarded-made-up"])
def test_without_keys_what_passed_a_tunnel_is_refused_even_where_it_rewrote_the_host(name: str) -> None:
    with pytest.raises(Forbidden):
        ask(OPEN, **{name: "8.8.8.8"})


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.com"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://[broken"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_without_keys_another_web_page_is_refused(headers: Mapping[str, str]) -> None:
    with pytest.raises(Forbidden):
        ask(OPEN, **headers)


@pytest.mark.parametrize("headers", [{"origin": "http://127.0.0.1:8000"}, {"sec_fetch_site": "none"}])
def test_without_keys_our_own_page_is_answered(headers: Mapping[str, str]) -> None:
    assert ask(OPEN, **headers) == LOCAL


def known(access: Access, host: str) -> bool:
    try:
        admit(access, Asked(headers={"host": host, "authorization": "Bearer made-up-studio-key"}, peer=None), NOW)
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


@pytest.mark.parametrize(
    ("host", "public_url"),
    [
        ("127.0.0.1", None),
        ("localhost", None),
        ("::1", "http://localhost:8000"),
        ("127.0.0.1", "http://127.0.0.1:8000"),
    ],
)
def test_without_keys_loopback_starts(host: str, public_url: str | None) -> None:
    check_start(host, public_url, ())


@pytest.mark.parametrize(
    ("host", "public_url"),
    [
        ("0.0.0.0", None),
        ("", None),
        ("192.168.1.4", None),
        ("homing.example.com", None),
        ("127.0.0.1", "https://homing.example.com"),
        ("127.0.0.1", "https://127.0.0.1.example.com"),
        ("127.0.0.1", "nonsense"),
    ],
)
def test_without_keys_anything_else_refuses_to_start_and_says_how_to_make_a_key(
    host: str, public_url: str | None
) -> None:
    with pytest.raises(SettingsError) as raised:
        check_start(host, public_url, ())
    assert "secrets.token_urlsafe(32)" in raised.value.detail
    assert "HOMING_API_KEYS" in raised.value.detail


def test_with_a_key_any_address_starts() -> None:
    check_start("0.0.0.0", "https://homing.example.com", (STUDIO, PAIR))


@pytest.mark.parametrize(
    "key",
    [
        NamedKey(name="studio", key=""),
        NamedKey(name="", key="made-up"),
        ClientKey(access="made-up-access", secret="thirty-one-bytes-are-not-enough"),
        ClientKey(access="", secret=SECRET),
    ],
)
def test_a_key_that_is_too_weak_refuses_to_start_without_telling_it(key: NamedKey | ClientKey) -> None:
    with pytest.raises(SettingsError) as raised:
        check_start("127.0.0.1", None, (key,))
    assert "thirty-one" not in raised.value.detail
