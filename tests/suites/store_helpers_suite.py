"""Shared suite for recorded helper calls and for the owners of the provider's objects, in every store."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.support.builders import NOW, a_helper_call, a_task, writing
from tracker.model.helper_records import HelperRecord, HelperState
from tracker.model.provider_objects import Claim, ObjectRef, ObjectType
from tracker.model.task import Fact, Precedence, Status, Task
from tracker.model.untrusted import JsonObject
from tracker.storage.helper_store import MAX_KEPT_ANSWER
from tracker.storage.store import Store

VOICE = ObjectRef(ObjectType.VOICE, "845000000000000000")
SESSION = ObjectRef(ObjectType.SESSION, "session-1")
MINUTE = timedelta(minutes=1)


def ended(record: HelperRecord, state: HelperState, **changes: Any) -> HelperRecord:
    return msgspec.structs.replace(record, state=state, ended_at=NOW, **changes)


def a_claim(client: str, named: ObjectRef = VOICE, **changes: Any) -> Claim:
    return Claim(provider="kling", account="default", object=named, client=client, at=NOW, **changes)


def made_voice(*, polled: bool, **changes: Any) -> Task:
    asset: JsonObject = {"kind": "voice", "url": "", "provider_asset_id": VOICE.id}
    fact = Fact(precedence=Precedence(rank=5, polled=polled), value=[asset])
    values: dict[str, Any] = {"status": Status.SUCCEEDED, "facts": {"assets": fact}, "kind": "general/custom-voices"}
    return a_task(**(values | changes))


class StoreHelpers:
    """Test what is recorded of helper calls, and to whom objects belong."""

    async def test_key_is_taken_once_per_client(self, store: Store) -> None:
        calls = store.helper_calls
        first, is_new = await calls.begin(a_helper_call(idempotency_key="k"))
        again = await calls.begin(a_helper_call(idempotency_key="k", request_hash="b"))
        other, other_is_new = await calls.begin(a_helper_call(idempotency_key="k", client="other"))

        assert is_new
        assert again == (first, False)
        assert other_is_new
        assert other.id != first.id
        assert await calls.find("local", "k") == first

    async def test_calls_without_key_are_all_new(self, store: Store) -> None:
        begun = [await store.helper_calls.begin(a_helper_call()) for _ in range(2)]

        assert [is_new for _, is_new in begun] == [True, True]

    @pytest.mark.parametrize("state", list(HelperState)[1:])
    async def test_end_is_recorded_and_frees_unused_keys(self, store: Store, state: HelperState) -> None:
        calls = store.helper_calls
        begun, _ = await calls.begin(a_helper_call(idempotency_key="k"))
        await calls.end(ended(begun, state, body=b"{}", size=2, http_status=200, why="w"))

        [record] = await calls.page(client="local", state=state, before=None, limit=9)
        assert (record.state, record.body, record.size, record.why) == (state, b"", 2, "w")
        found = await calls.find("local", "k")
        assert (found and found.body) == (b"{}" if state in {HelperState.ANSWERED, HelperState.UNKNOWN} else None)

    async def test_late_answer_replaces_unknown_only(self, store: Store) -> None:
        calls = store.helper_calls
        begun, _ = await calls.begin(a_helper_call())
        for state in (HelperState.UNKNOWN, HelperState.ANSWERED, HelperState.UNKNOWN):
            await calls.end(ended(begun, state))

        [record] = await calls.page(client=None, state=None, before=None, limit=9)
        assert record.state is HelperState.ANSWERED

    async def test_large_answer_keeps_only_its_size(self, store: Store) -> None:
        begun, _ = await store.helper_calls.begin(a_helper_call())
        size = MAX_KEPT_ANSWER + 1
        await store.helper_calls.end(ended(begun, HelperState.ANSWERED, body=b"a" * size, size=size))

        [record] = await store.helper_calls.page(client=None, state=None, before=None, limit=9)
        assert (record.body, record.size) == (b"", size)

    async def test_lost_calls_are_late_or_of_a_gone_process(self, store: Store) -> None:
        calls = store.helper_calls
        late, _ = await calls.begin(a_helper_call(until=NOW))
        gone, _ = await calls.begin(a_helper_call(owner="gone"))
        running, _ = await calls.begin(a_helper_call(owner="me"))

        assert [record.id for record in await calls.lost(now=NOW, alone=None, limit=9)] == [late.id]
        assert [record.id for record in await calls.lost(now=NOW, alone="me", limit=9)] == [late.id, gone.id]
        later = NOW + 2 * MINUTE
        assert len(await calls.lost(now=later, alone=None, limit=9)) == 3
        assert running.id == 3

    async def test_retention_deletes_old_calls(self, store: Store) -> None:
        await store.helper_calls.begin(a_helper_call())

        step = await store.retention.delete_old(until=NOW, now=NOW, after=None, limit=9)

        assert step.helper_calls == 1
        assert await store.helper_calls.page(client=None, state=None, before=None, limit=9) == []

    async def test_claims_merge_and_are_never_unverified(self, store: Store) -> None:
        await store.claims.add([a_claim("b"), a_claim("a", kind="k", provider_task_id="7")])
        await store.claims.add([a_claim("a", verified=True), a_claim("a")])

        claims = await store.claims.claims("kling", "default", VOICE)
        shown = [(claim.client, claim.verified, claim.provider_task_id) for claim in claims]
        assert shown == [("a", True, "7"), ("b", False, None)]
        assert await store.claims.owned("kling", "default", "a", [VOICE]) == {VOICE}
        assert await store.claims.owned("kling", "default", "b", [VOICE]) == set()
        await store.claims.verify(claims[1])
        assert await store.claims.owned("kling", "default", "b", [VOICE]) == {VOICE}
        await store.claims.remove("kling", "default", VOICE)
        assert await store.claims.claims("kling", "default", VOICE) == []

    @pytest.mark.parametrize("polled", [True, False])
    async def test_task_result_claims_its_voice(self, store: Store, *, polled: bool) -> None:
        task = made_voice(polled=polled, provider_task_id="7")

        await store.apply([writing(task)])

        [claim] = await store.claims.claims("kling", "default", VOICE)
        assert (claim.client, claim.verified) == (task.client, polled)
        assert (claim.kind, claim.provider_task_id) == (task.kind, "7")

    async def test_unfinished_task_claims_nothing(self, store: Store) -> None:
        await store.apply([writing(made_voice(polled=True, status=Status.FAILED))])

        assert await store.claims.claims("kling", "default", VOICE) == []

    async def test_old_sessions_are_deleted(self, store: Store) -> None:
        await store.claims.add([a_claim("a", SESSION), a_claim("a", VOICE)])

        assert await store.claims.delete_old_sessions(until=NOW - MINUTE, limit=9) == 0
        assert await store.claims.delete_old_sessions(until=NOW, limit=9) == 1
        assert len(await store.claims.claims("kling", "default", VOICE)) == 1
