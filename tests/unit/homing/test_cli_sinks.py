"""`homing sinks` over the real API: the table explains each sink that is off."""

from argparse import Namespace
from dataclasses import replace

import pytest

from homing.commands.client import ApiClient
from homing.commands.http_exchange import HttpExchange
from homing.commands.sinks import run_sinks
from tests.suites.store_progress_suite import LEASE, SHOP, failure, happened
from tests.support.api_harness import ApiHarness
from tests.support.builders import NOW
from tracker.model.sinks import ProgressUpdate
from tracker.storage import sink_store


async def test_sinks_table_explains_each_stopped_sink(
    api: ApiHarness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_store, "COUNT_LIMIT", 3)
    store = api.tracker.store
    *_, last = await happened(store, 2)
    await store.sinks.register([SHOP, *(replace(SHOP, name=name) for name in ("lines", "other"))], now=NOW)
    await store.sinks.acquire_lease("shop", owner="me", now=NOW, lease=LEASE)
    refused = ProgressUpdate(cursor=last.cursor, failed=(failure(last),), failures=1, error="410 Gone", off=True)
    await store.progress.record("shop", refused, owner="me", now=NOW)
    await api.tracker.sink_admin.resume("lines", from_now=True)
    await api.tracker.sink_admin.pause("lines")

    async with api.client() as client:
        assert await run_sinks(Namespace(json=False), ApiClient(HttpExchange(client))) == 0

    *table, paused, gone = capsys.readouterr().out.splitlines()
    assert sum("at least 3" in line for line in table) == 1
    assert gone.startswith("shop is off, its endpoint refused further events: 410 Gone (")
    assert gone.endswith(" ago). `homing sinks resume shop` resumes it with the events that it missed")
    assert paused == "lines is off, paused. `homing sinks resume lines` resumes it with the events that it missed"
