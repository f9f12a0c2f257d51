"""Tests of external IDs that Homing derives from the names in a create request."""

import re
from secrets import token_bytes
from typing import Any

import pytest

from tests.support.builders import a_task, writing
from tracker.service.external_ids import ExternalIds, external_id
from tracker.storage.store import Store

SECRET = b"a made-up secret of thirty-two b"
NAMED: dict[str, Any] = {"external_id": "order-7", "idempotency_key": "key-7", "request_hash": "h"}


def test_external_id_fits_any_provider() -> None:
    assert re.fullmatch(r"hm[0-9a-z]{26}", external_id(SECRET, a_task(**NAMED), 0))


def test_external_id_of_repeated_request_is_equal() -> None:
    # Other fields of the row do not matter: Homing creates the row again after a restore.
    assert external_id(SECRET, a_task(1, **NAMED), 0) == external_id(SECRET, a_task(2, attempts=1, **NAMED), 0)


@pytest.mark.parametrize(
    "other",
    [
        {"provider": "another"},
        {"account": "another"},
        {"kind": "videos/text2video"},
        {"client": "another"},
        {"external_id": "key-7"},
        {"external_id": None},
        {"idempotency_key": None},
        {"idempotency_key": "order-7", "external_id": "key-7"},
        {"request_hash": "another"},
    ],
)
def test_external_id_of_other_request_differs(other: dict[str, Any]) -> None:
    assert external_id(SECRET, a_task(**NAMED | other), 0) != external_id(SECRET, a_task(**NAMED), 0)


def test_external_id_differs_by_secret_and_generation() -> None:
    task = a_task(**NAMED)
    ids = {external_id(secret, task, number) for secret in (SECRET, SECRET[::-1]) for number in range(3)}
    assert len(ids) == 6


@pytest.mark.parametrize("used", [1, 2, 3, 7, 8])
async def test_next_generation_is_first_free_one(store: Store, used: int) -> None:
    ids = ExternalIds(store, random_bytes=token_bytes)
    await ids.open()
    for number in range(used):
        sent = await ids.of(a_task(**NAMED), number)
        await store.apply([writing(a_task(number + 1, sent_external_id=sent, released=True, **NAMED))])

    assert await ids.next_generation(a_task(**NAMED), 1) == used


async def test_external_id_secret_is_in_the_database(store: Store) -> None:
    one, other = ExternalIds(store, random_bytes=token_bytes), ExternalIds(store, random_bytes=token_bytes)
    await one.open()
    await other.open()

    assert await one.of(a_task(**NAMED), 0) == await other.of(a_task(**NAMED), 0)
