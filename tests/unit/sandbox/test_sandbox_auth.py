import time
from itertools import count

import jwt
import pytest

from homing.sandbox.auth import Authenticator
from homing.sandbox.refusals import Refusal

SECRET = "made-up-secret-of-thirty-two-bytes!"
AUTHENTICATOR = Authenticator(("first-key", "second-key"), {"ak": SECRET}, legacy_only=False)


def token(secret: str = SECRET, **claims: object) -> str:
    now = int(time.time())
    whole = {"iss": "ak", "exp": now + 1800, "nbf": now - 5} | claims
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, secret, "HS256")


@pytest.mark.parametrize("legacy", [True, False])
def test_api_key_opens_every_path(*, legacy: bool) -> None:
    assert AUTHENTICATOR.account("Bearer second-key", legacy=legacy) == "api-key-2"


def test_token_opens_legacy_paths() -> None:
    assert AUTHENTICATOR.account(f"Bearer {token()}", legacy=True) == "access-key ak"


@pytest.mark.parametrize(
    ("authorization", "code", "message"),
    [
        (None, 1001, "empty"),
        ("  ", 1001, "empty"),
        ("Basic first-key", 1002, "invalid"),
        ("Bearer", 1002, "invalid"),
        ("Bearer unknown", 1002, "The token was expected to have 3 parts, but got 0"),
        ("Bearer a.b", 1002, "The token was expected to have 3 parts, but got 2"),
        ("Bearer a.b.c.d", 1002, "The token was expected to have 3 parts, but got > 3"),
        ("Bearer a.b.c", 1002, "invalid"),
        ("Bearer ä.ö.ü", 1002, "invalid"),
        (f"Bearer {token(iss='other')}", 1000, "not known"),
        (f"Bearer {token(iss=None)}", 1000, "not known"),
        (f"Bearer {token(secret='x' * 32)}", 1000, "signature"),
        (f"Bearer {token(exp=None)}", 1002, "the token has no exp"),
        (f"Bearer {token(nbf=None)}", 1002, "the token has no nbf"),
        (f"Bearer {token(nbf=int(time.time()) + 86_400)}", 1003, "not yet"),
        (f"Bearer {token(exp=int(time.time()) - 600)}", 1004, "expired"),
    ],
    # A token changes with time, so it must not be part of the test ID in each worker.
    ids=map(str, count(1)),
)
def test_bad_credential_has_its_code(authorization: str | None, code: int, message: str) -> None:
    with pytest.raises(Refusal, match=message) as refused:
        AUTHENTICATOR.account(authorization, legacy=True)
    assert (refused.value.code, refused.value.status) == (code, 401)


def test_new_paths_refuse_token() -> None:
    with pytest.raises(Refusal, match="The current API does not support AK/SK") as refused:
        AUTHENTICATOR.account(f"Bearer {token()}", legacy=False)
    assert (refused.value.code, refused.value.status) == (1002, 401)


def test_reseller_has_no_new_paths() -> None:
    reseller = Authenticator(("first-key",), {}, legacy_only=True)
    with pytest.raises(Refusal, match="does not support"):
        reseller.account("Bearer first-key", legacy=False)
