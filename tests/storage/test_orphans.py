"""Test the limits on unsigned callbacks, on both databases: per shared callback URL, and in one task's history."""

from datetime import timedelta
from typing import Any

from tests.support.builders import NOW, an_orphan, writing
from tracker.storage.orphan_store import SETTLED_UNSIGNED, WAITING_UNSIGNED
from tracker.storage.store import Store

SECOND = timedelta(seconds=1)
ELSEWHERE = "shared URL 2"


def flood(count: int, *, name: str = "forged", **changes: Any) -> list[Any]:
    """Return the changes of unsigned callbacks for unknown tasks, one second apart."""
    return [
        writing(
            orphan=an_orphan(
                **{
                    "provider_task_id": f"{name}-{number:04}",
                    "first_at": NOW + SECOND * number,
                    "last_at": NOW + SECOND * number,
                    **changes,
                }
            )
        )
        for number in range(count)
    ]


async def kept(store: Store) -> list[str]:
    return [orphan.provider_task_id for orphan in await store.orphans.latest(limit=5_000)]


async def unkept(store: Store) -> int:
    return (await store.stats(client=None, now=NOW)).orphans_not_kept


async def test_unsigned_orphans_above_limit_are_only_counted(store: Store) -> None:
    await store.apply(flood(WAITING_UNSIGNED - 1))
    await store.apply(flood(20, name="more"))

    waiting = await kept(store)

    assert len(waiting) == WAITING_UNSIGNED
    assert await unkept(store) == 19


async def test_orphans_of_full_url_keep_the_allowed_ones(store: Store) -> None:
    await store.apply(flood(WAITING_UNSIGNED))

    await store.apply(flood(2, name="signed", signed=True))
    await store.apply(flood(1, name="elsewhere", address=ELSEWHERE))
    await store.apply(flood(1, callbacks=3))

    found = {orphan.provider_task_id: orphan for orphan in await store.orphans.latest(limit=5_000)}
    assert {"signed-0000", "signed-0001", "elsewhere-0000"} <= found.keys()
    assert found["forged-0000"].callbacks == 4
    assert await unkept(store) == 0


async def test_due_orphans_are_signed_first_then_round_robin(store: Store) -> None:
    await store.apply(flood(5))
    await store.apply(flood(2, name="elsewhere", address=ELSEWHERE, next_poll_at=NOW + SECOND))
    await store.apply(flood(1, name="signed", signed=True, next_poll_at=NOW + SECOND * 2))

    due = await store.orphans.due(now=NOW + SECOND * 3, limit=5)

    names = [orphan.provider_task_id for orphan in due]
    assert names == ["signed-0000", "forged-0000", "elsewhere-0000", "forged-0001", "elsewhere-0001"]


async def test_settled_unsigned_orphans_drop_the_oldest(store: Store) -> None:
    settled: dict[str, Any] = {"state": "orphan", "next_poll_at": None}
    await store.apply(flood(2, name="signed", signed=True, **settled))
    await store.apply(flood(1, name="waiting"))

    await store.apply(flood(SETTLED_UNSIGNED + 5, **settled))

    names = await kept(store)
    forged = [name for name in names if name.startswith("forged")]
    assert (len(forged), min(forged)) == (SETTLED_UNSIGNED, "forged-0005")
    assert {"signed-0000", "signed-0001", "waiting-0000"} <= set(names)


async def test_settling_unsigned_orphan_drops_the_oldest(store: Store) -> None:
    settled: dict[str, Any] = {"state": "orphan", "next_poll_at": None}
    await store.apply(flood(SETTLED_UNSIGNED, **settled))
    await store.apply(flood(1, name="waiting", last_at=NOW + SECOND * 9_999))
    (due,) = await store.orphans.due(now=NOW, limit=2)

    await store.orphans.settle(due.id, state="orphan", why="unknown", next_poll_at=None, task_id=None)

    names = await kept(store)
    assert len(names) == SETTLED_UNSIGNED
    assert "waiting-0000" in names
    assert "forged-0000" not in names


async def test_signed_orphan_keeps_body_over_unsigned_ones(store: Store) -> None:
    await store.apply([writing(orphan=an_orphan(signed=True, provider_status="succeed", body=b"signed"))])
    await store.apply([writing(orphan=an_orphan(provider_status="failed", body=b"forged"))])

    (orphan,) = await store.orphans.latest(limit=10)

    assert (orphan.provider_status, orphan.body, orphan.signed, orphan.callbacks) == ("succeed", b"signed", True, 2)


async def test_orphan_that_is_signed_later_counts_as_signed(store: Store) -> None:
    await store.apply([writing(orphan=an_orphan())])
    await store.apply([writing(orphan=an_orphan(signed=True, body=b"signed"))])

    (orphan,) = await store.orphans.latest(limit=10)

    assert (orphan.signed, orphan.body) == (True, b"signed")
