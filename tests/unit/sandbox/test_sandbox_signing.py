import base64
from datetime import UTC, datetime
from typing import get_args

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from homing.sandbox.signing import Seal, seal, sign

SECRET = "whsec_" + base64.b64encode(b"made up for the tests of the sandbox").decode()
NEXT_SECRET = "whsec_" + base64.b64encode(b"the one that comes after the rotation").decode()
BODY = b'{"task_id":"1"}'


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def test_published_vector_is_reproduced() -> None:
    body = (
        b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
    )
    secret = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
    assert sign(secret, "9876543210", 1781080794, body) == "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="


@pytest.mark.parametrize("secret", [SECRET, NEXT_SECRET])
def test_reference_library_accepts_both_rotated_signatures(secret: str) -> None:
    headers = seal("genuine", secrets=(SECRET, NEXT_SECRET), webhook_id="7", timestamp=now(), body=BODY)
    assert Webhook(secret).verify(BODY, headers) == {"task_id": "1"}


@pytest.mark.parametrize("kind", ["wrong_key", "stale", "altered"])
def test_reference_library_refuses_false_seal(kind: Seal) -> None:
    headers = seal(kind, secrets=(SECRET,), webhook_id="7", timestamp=now(), body=BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, headers)


def test_malformed_seal_has_no_valid_signature() -> None:
    headers = seal("malformed", secrets=(SECRET,), webhook_id="7", timestamp=now(), body=BODY)
    assert sign(SECRET, "7", int(headers["webhook-timestamp"]), BODY) not in headers["webhook-signature"].split()


@pytest.mark.parametrize("kind", sorted(set(get_args(Seal)) - {"wrong_key", "malformed"}))
def test_provider_without_secret_sends_no_signature(kind: Seal) -> None:
    assert seal(kind, secrets=(), webhook_id="7", timestamp=now(), body=BODY) == {}
