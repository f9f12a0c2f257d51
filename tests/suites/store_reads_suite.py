"""Shared suite for reads in every store, and for the round trip of every value."""

import asyncio
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.properties.observations import observed_in_turn
from tests.suites.store_case import LEASE
from tests.suites.store_pages_suite import StorePages
from tests.support.builders import NOW, PICTURE, a_report, a_task, an_entry, an_orphan, by_callback, by_poll, writing
from tests.support.examples import examples
from tracker.errors import HomingError
from tracker.model.changes import Seen
from tracker.model.records import HistoryEntry, SharedCallbackUrl
from tracker.model.task import IdSource, Source, Status, Task, Trust, Verdict
from tracker.storage.store import Store

ADDRESS = SharedCallbackUrl(
    id=0, provider="kling", kind=None, client="studio", created_at=NOW, revoked_at=None, label="the console"
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - naive bounds are asked for
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), texts),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(texts, below, max_size=3)),
    max_leaves=6,
)


# One suite, several databases: each of them tries its own examples on a fixture that all examples share.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


class StoreReads(StorePages):
    """References, statistics, orphans, addresses and values, as sentences."""

    # ---- asking

    async def test_reference_tries_own_then_provider_then_client_id(self, store: Store) -> None:
        one = a_task(1, external_id="x", provider_task_id="p")
        two = a_task(2, external_id="p", provider_task_id=one.id)
        three = a_task(3, client="other", external_id="x")
        await store.apply([writing(task) for task in (one, two, three)])

        async def found(ref: str, client: str | None, **more: str) -> str | None:
            task = await store.tasks.find_ref(ref, client=client, **more)
            return None if task is None else task.id

        assert await found(one.id, "studio") == one.id
        assert await found("p", "studio") == one.id
        assert await found("x", "studio") == one.id
        assert await found("x", "other") == three.id
        assert await found("x", None) == three.id
        assert await found(one.id, "other") is None
        assert await found("p", "other") is None
        assert await found("p", "studio", kind="videos/omni-video") is None
        assert await found("p", "studio", provider="other") is None

    async def test_external_id_finds_live_task_then_newest(self, store: Store) -> None:
        tasks = [a_task(n, external_id="x", status=Status.REJECTED, released=True) for n in (1, 3)]
        await store.apply([writing(task) for task in tasks])
        newest = await store.tasks.find_ref("x", client="studio")
        assert newest is not None
        assert newest.id == a_task(3).id
        await store.apply([writing(a_task(2, external_id="x"))])
        live = await store.tasks.find_ref("x", client="studio")
        assert live is not None
        assert live.id == a_task(2).id

    async def test_unresolved_submissions_are_oldest_first(self, store: Store) -> None:
        lost = [a_task(n, attempts=1) for n in (2, 1)]
        others = [
            a_task(3),
            a_task(4, attempts=1, status=Status.SUBMITTED),
            a_task(5, attempts=1, kind="videos/omni-video"),
        ]
        await store.apply([writing(task) for task in (*lost, *others)])
        found = await store.tasks.unresolved(provider="kling", kind=lost[0].kind, limit=10)
        assert [task.id for task in found] == [a_task(1).id, a_task(2).id]

    async def test_latest_accepted_is_the_newest_accepted_task(self, store: Store) -> None:
        taken: dict[str, Any] = {"attempts": 1, "status": Status.SUCCEEDED}
        await store.apply(
            [
                writing(a_task(1, provider_task_id="p-1", **taken)),
                writing(a_task(2, provider_task_id="p-2", **taken | {"status": Status.SUBMITTED})),
                writing(a_task(3, provider_task_id="p-3", **taken | {"attempts": 0})),
                writing(a_task(4, **taken)),
                writing(a_task(5, provider_task_id="p-5", **taken | {"account": "another"})),
                writing(a_task(6, provider_task_id="p-6", **taken | {"kind": "videos/omni-video"})),
            ]
        )
        found = await store.tasks.latest_accepted(provider="kling", account="default", kind=a_task(1).kind)
        assert found is not None
        assert found.id == a_task(2).id
        assert await store.tasks.latest_accepted(provider="kling", account="nobody", kind=a_task(1).kind) is None

    async def test_stats_count_the_store_or_one_client(self, store: Store) -> None:
        by_callback_alone = observed_in_turn(
            a_task(1, provider_task_id="p"), [by_callback(a_report(provider_task_id="p"))], Trust.TOKEN
        )
        polled = observed_in_turn(
            a_task(2, client="other", provider_task_id="q"), [by_poll(a_report(provider_task_id="q"))], Trust.TOKEN
        )
        due = a_task(3, next_poll_at=NOW)
        await store.apply(
            [writing(by_callback_alone), writing(polled), writing(due, counts={"polls": 1}, orphan=an_orphan())]
        )
        whole = await store.stats(client=None, now=NOW)
        assert whole.by_status == {"succeeded": 2, "pending": 1}
        assert (whole.open, whole.due, whole.oldest_open_at) == (1, 1, due.created_at)
        assert whole.finished_by_source == {"callback": 1, "poll": 1}
        assert (whole.polls, whole.orphans) == (1, {"waiting": 1})
        share = await store.stats(client="other", now=NOW)
        assert (share.by_status, share.open, share.due, share.oldest_open_at) == ({"succeeded": 1}, 0, 0, None)
        assert (share.polls, share.orphans, share.alarms) == (0, {}, ())

    async def test_completions_are_in_order_of_end_time(self, store: Store) -> None:
        """Include completions with equal times. Rejected and expired tasks are not completions."""
        ends = {1: 3, 2: 1, 3: 1, 4: 1, 5: 2}
        tasks = [
            a_task(n, status=Status.SUCCEEDED, submitted_at=NOW, finished_at=NOW + end * LEASE, provider_task_id=f"{n}")
            for n, end in ends.items()
        ]
        refused = a_task(6, status=Status.REJECTED, submitted_at=NOW, finished_at=NOW + LEASE)
        await store.apply([writing(task) for task in (*tasks, refused)])
        until = NOW + 3 * LEASE
        seen: list[str] = []
        after = (NOW, "")
        while found := await store.completions(after=after, until=until, limit=2):
            seen += [one.task_id for one in found]
            after = (found[-1].finished_at, found[-1].task_id)
        assert seen == [a_task(n).id for n in (2, 3, 4, 5, 1)]
        newest = await store.completions(after=None, until=until - LEASE, limit=2)
        assert [one.task_id for one in newest] == [a_task(n).id for n in (4, 5)]

    # ---- orphans, addresses, secrets, capabilities

    async def test_callbacks_of_one_orphan_are_one_row(self, store: Store) -> None:
        later = an_orphan(last_at=NOW + LEASE, provider_status="succeed", body=b"later")
        await store.apply([writing(orphan=an_orphan()), writing(orphan=later)])
        await store.apply([writing(orphan=an_orphan(provider_task_id="unknown-2"))])
        newest, other = await store.orphans.latest(limit=10)
        assert (newest.callbacks, newest.first_at, newest.last_at) == (2, NOW, NOW + LEASE)
        assert (newest.provider_status, newest.body) == ("succeed", b"later")
        assert other.provider_task_id == "unknown-2"

    async def test_orphan_is_due_until_settled(self, store: Store) -> None:
        waiting = an_orphan(next_poll_at=NOW)
        await store.apply([writing(orphan=waiting), writing(orphan=an_orphan(provider_task_id="x", next_poll_at=None))])
        assert await store.orphans.due(now=NOW - LEASE, limit=10) == []
        assert [await store.due_tasks.is_due(at, lease=LEASE) for at in (NOW - LEASE, NOW)] == [False, True]
        (due,) = await store.orphans.due(now=NOW, limit=10)
        await store.orphans.settle(due.id, state="orphan", why="unknown", next_poll_at=None, task_id="hm1")
        assert await store.orphans.due(now=NOW, limit=10) == []
        assert not await store.due_tasks.is_due(NOW, lease=LEASE)
        settled = next(each for each in await store.orphans.latest(limit=10) if each.id == due.id)
        assert (settled.state, settled.why, settled.task_id, settled.poll_count) == ("orphan", "unknown", "hm1", 1)

    @pytest.mark.parametrize("signed", [True, False])
    async def test_settled_orphan_reopens_only_if_signed(self, store: Store, *, signed: bool) -> None:
        await store.apply([writing(orphan=an_orphan())])
        (due,) = await store.orphans.due(now=NOW, limit=10)
        await store.orphans.settle(due.id, state="orphan", why="unknown", next_poll_at=None, task_id=None)
        await store.apply([writing(orphan=an_orphan(signed=signed))])
        again = await store.orphans.due(now=NOW, limit=10)
        assert [(each.state, each.poll_count) for each in again] == ([("waiting", 0)] if signed else [])
        await store.apply([writing(orphan=an_orphan(signed=False))])
        assert len(await store.orphans.due(now=NOW, limit=10)) == int(signed)

    async def test_callback_url_is_found_by_hash_until_revoked(self, store: Store) -> None:
        kept = await store.callback_urls.add(ADDRESS, "hash")
        assert replace(kept, id=0) == ADDRESS
        assert await store.callback_urls.find("kling", "hash") == kept
        assert await store.callback_urls.find("other", "hash") is None
        assert await store.callback_urls.find("kling", "another hash") is None
        revoked = await store.callback_urls.revoke(kept.id, by="ops", now=NOW + LEASE)
        assert revoked == replace(kept, revoked_at=NOW + LEASE)
        assert await store.callback_urls.revoke(kept.id, by="ops", now=NOW + 2 * LEASE) == revoked
        assert await store.callback_urls.find("kling", "hash") is None
        assert await store.callback_urls.all() == [revoked]
        assert await store.callback_urls.revoke(kept.id + 1, by="ops", now=NOW) is None

    async def test_shared_secret_is_created_once(self, store: Store, url: str) -> None:
        other = Store(url)
        await other.open()
        secrets = await asyncio.gather(
            *(each.secrets.get("callback", bytes([n])) for n, each in enumerate([store, other, store]))
        )
        await other.close()
        assert len(set(secrets)) == 1
        assert await store.secrets.get("another", b"x") == b"x"

    async def test_callback_url_keeps_its_last_observed_use(self, store: Store) -> None:
        assert await store.accounts.capability("https://a", "k", "lookup") is None
        seen = [
            Seen(base_url="https://a", kind="k", name="lookup", present=p, at=NOW + LEASE * p) for p in (False, True)
        ]
        await store.apply([writing(seen=(seen[0],)), writing(seen=(seen[1],))])
        assert await store.accounts.capability("https://a", "k", "lookup") == (True, NOW + LEASE)
        await store.apply([writing(seen=(seen[0],))])
        assert await store.accounts.capability("https://a", "k", "lookup") == (False, NOW)
        assert await store.accounts.capability("https://b", "k", "lookup") is None

    # ---- lasting

    async def test_committed_data_survives_reopening(self, store: Store, url: str) -> None:
        task = a_task()
        await store.apply([writing(task, entries=(an_entry(task, "one"),))])
        await store.close()
        again = Store(url)
        await again.open()
        assert await again.tasks.get(task.id) == task
        assert len(await again.tasks.history(task.id)) == 1
        await again.close()

    async def test_closed_store_says_that_it_is_closed(self, url: str) -> None:
        with pytest.raises(HomingError, match="not open"):
            await Store(url).ping()

    async def test_ping_writes(self, store: Store) -> None:
        await store.ping()
        await store.ping()

    # ---- values

    async def test_task_fields_all_have_columns(self, store: Store) -> None:
        names = [one.name for one in fields(Task)]
        plain = {one.name: one.default for one in fields(Task)}
        kept = observed_in_turn(
            a_task(), [by_callback(a_report(assets=(PICTURE,), price={"billing": 1}, updated_at=NOW))], Trust.TOKEN
        )
        kept = observed_in_turn(kept, [by_poll(a_report(updated_at=NOW))], Trust.TOKEN)
        unset = [name for name in names if getattr(kept, name) == plain[name] or not getattr(kept, name)]
        values: dict[str, Any] = {
            "unproven_id_from": IdSource.CALLBACK,
            "conflict_statuses": (Status.FAILED,),
            "conflict_at": NOW,
            "tags": ("a",),
            "metadata": {"order": "17"},
            "request": {"prompt": "a cat"},
            "released": False,
            "callback_requested": True,
        }
        values |= {name: 3 for name in unset if isinstance(plain[name], int) and name not in values}
        values |= {name: NOW for name in unset if name.endswith(("_at", "_until"))}
        values = {name: name for name in unset} | values
        full = replace(kept, **values)
        assert [name for name in names if getattr(full, name) == plain[name]] == ["released"]
        released = replace(full, id="hm2", released=True, idempotency_key=None, provider_task_id="other")
        await store.apply([writing(full), writing(released)])
        assert await store.tasks.get(full.id) == full
        assert await store.tasks.get("hm2") == released

    @settings(max_examples=examples(40), suppress_health_check=SHARED)
    @given(number=st.integers(1, 10**9), data=st.data())
    async def test_task_of_any_values_is_read_back_unchanged(
        self, store: Store, number: int, data: st.DataObject
    ) -> None:
        values: dict[str, Any] = {
            name: data.draw(st.none() | texts) for name in ("reason", "candidate_id", "client_callback_url", "taken_by")
        }
        times = {
            name: data.draw(st.none() | moments)
            for name in ("last_observed_at", "polled_at", "lease_until", "answered_at")
        }
        task = a_task(
            number % 10**6,
            id=f"hm{number}-{data.draw(st.uuids())}",
            created_at=data.draw(moments),
            request=data.draw(st.dictionaries(texts, json_values, max_size=3)),
            tags=tuple(data.draw(st.lists(texts, max_size=3, unique=True))),
            metadata=data.draw(st.dictionaries(texts, texts, max_size=3)),
            conflict_statuses=data.draw(st.sampled_from([(), (Status.FAILED,), (Status.FAILED, Status.SUCCEEDED)])),
            poll_count=data.draw(st.integers(0, 2**31 - 1)),
            **times,
        )
        message = data.draw(texts)
        observation = by_poll(
            a_report(
                message=message,
                updated_at=data.draw(moments),
                price={"billing": data.draw(json_values)},
                assets=(PICTURE,),
            )
        )
        task = observed_in_turn(
            task,
            [structs.replace(observation, report=structs.replace(observation.report, provider_task_id=task.id))],
            Trust.TOKEN,
        )
        task = replace(task, **values)
        await store.apply([writing(task)])
        assert await store.tasks.get(task.id) == task

    @settings(max_examples=examples(30), suppress_health_check=SHARED)
    @given(body=st.binary(max_size=100), status=st.none() | texts, at=moments, seen=st.none() | moments)
    async def test_observation_of_any_values_is_read_back_unchanged(
        self, store: Store, body: bytes, status: str | None, at: datetime, seen: datetime | None
    ) -> None:
        task = a_task()
        if await store.tasks.get(task.id) is None:
            await store.apply([writing(task)])
        entry = an_entry(
            task, str(uuid4()), body=body, provider_status=status, at=at, provider_updated_at=seen, status=None
        )
        before = len(await store.tasks.history(task.id))
        await store.apply([writing(task, entries=(entry,))])
        shown: HistoryEntry = (await store.tasks.history(task.id))[before]
        assert structs.replace(shown, id=0) == entry.shown
        assert (shown.source, shown.verdict) == (Source.CALLBACK, Verdict.APPLIED)
