"""Authentication: an API key on every path, an AK/SK token (HS256 JWT) on the legacy paths.

Documented: "Authentication" of the official documentation. Live: the two 1002 texts. Assumed: a token whose access
key or signature is wrong gets 1000, one without `iss` or `exp` gets 1002, and a token may be valid for any time.
"""

from collections.abc import Mapping
from hmac import compare_digest

import jwt

from homing.sandbox.refusals import (
    BAD_AUTHORIZATION,
    NO_ACCESS_KEYS_HERE,
    NO_AUTHORIZATION,
    NOT_A_TOKEN,
    Refusal,
)

_PARTS = 3


class Authenticator:
    """Identifies the account of a request, or refuses it. A reseller (`legacy_only`) has no `/tasks`."""

    def __init__(self, api_keys: tuple[str, ...], access_keys: Mapping[str, str], *, legacy_only: bool) -> None:
        self._legacy_only = legacy_only
        self._api_keys = api_keys
        self._access_keys = access_keys

    def account(self, authorization: str | None, *, legacy: bool) -> str:
        """Return a name for the credential that is not secret, such as `api-key-1` or `access-key NAME`."""
        if not authorization or not authorization.strip():
            raise Refusal(1001, NO_AUTHORIZATION)
        scheme, _, credential = authorization.strip().partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise Refusal(1002, BAD_AUTHORIZATION)
        if self._legacy_only and not legacy:
            raise Refusal(1002, NO_ACCESS_KEYS_HERE)
        for number, key in enumerate(self._api_keys, start=1):
            if compare_digest(key.encode(), credential.encode()):
                return f"api-key-{number}"
        if legacy:
            return self._access_key(credential)
        is_token = credential.count(".") == _PARTS - 1
        raise Refusal(1002, NO_ACCESS_KEYS_HERE if is_token else BAD_AUTHORIZATION)

    def _access_key(self, token: str) -> str:
        dots = token.count(".")
        if dots != _PARTS - 1:
            parts = {0: "0", 1: "2"}.get(dots, f"> {_PARTS}")
            raise Refusal(1002, NOT_A_TOKEN.format(parts=parts))
        try:
            access_key = jwt.decode(token, options={"verify_signature": False}).get("iss")
            secret = self._access_keys.get(access_key) if isinstance(access_key, str) else None
            if secret is None:
                raise Refusal(1000, "Authentication failed: the access key is not known")
            jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["iss", "exp", "nbf"]})
        except jwt.ImmatureSignatureError as error:
            raise Refusal(1003, "Authorization is not yet valid") from error
        except jwt.ExpiredSignatureError as error:
            raise Refusal(1004, "Authorization has expired") from error
        except jwt.InvalidSignatureError as error:
            raise Refusal(1000, "Authentication failed: the signature is wrong") from error
        except jwt.MissingRequiredClaimError as error:
            raise Refusal(1002, f"{BAD_AUTHORIZATION}: the token has no {error.claim}") from error
        except jwt.PyJWTError as error:
            raise Refusal(1002, BAD_AUTHORIZATION) from error
        return f"access-key {access_key}"
