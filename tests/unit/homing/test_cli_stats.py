"""`homing stats`, `homing audit` and `homing helper-calls` over the real API."""

from argparse import Namespace

import msgspec
import pytest

from homing.commands.client import ApiClient
from homing.commands.http_exchange import HttpExchange
from homing.commands.operate import run_audit, run_helper_calls, run_stats
from tests.support.api_harness import ApiHarness, five_finished_tasks
from tests.support.builders import NOW, a_helper_call
from tracker.model.helper_records import HelperState
from tracker.model.records import Action, AuditEntry


async def test_stats_show_callback_loss_and_run_times(api: ApiHarness, capsys: pytest.CaptureFixture[str]) -> None:
    await api.add(*five_finished_tasks())

    async with api.client() as client:
        assert await run_stats(Namespace(json=False), ApiClient(HttpExchange(client))) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["kling", "images/omni-image", "20.0%", "3.6%", "and", "62.4%", "5"] in lines
    assert ["kling", "images/omni-image", "kling-v3-omni", "22.0", "s", "5"] in lines


async def test_audit_is_table_with_clients_and_actions(api: ApiHarness, capsys: pytest.CaptureFixture[str]) -> None:
    for action, client_name, detail in ((Action.PAUSE_SINK, "local", ""), (Action.REPLAY, "ops", "dead=yes")):
        entry = AuditEntry(at=NOW, client=client_name, action=action, object="shop", detail=detail)
        await api.tracker.audit.write(entry)
    args = Namespace(json=False, client=None, action=None, limit=1, cursor=None)

    async with api.client() as client:
        assert await run_audit(args, ApiClient(HttpExchange(client))) == 0

    heads, line, more = capsys.readouterr().out.splitlines()
    assert heads.split() == ["at", "client", "action", "object", "detail"]
    assert line.split()[1:] == ["ops", "replay", "shop", "dead=yes"]
    assert more == "More: --cursor 2"


async def test_helper_calls_are_table_with_states(api: ApiHarness, capsys: pytest.CaptureFixture[str]) -> None:
    record = a_helper_call()
    begun, _ = await api.tracker.store.helper_calls.begin(record)
    ended = msgspec.structs.replace(begun, state=HelperState.UNKNOWN, ended_at=NOW, why="made up")
    await api.tracker.store.helper_calls.end(ended)
    args = Namespace(json=False, client=None, state="unknown", limit=None, cursor=None)

    async with api.client() as client:
        assert await run_helper_calls(args, ApiClient(HttpExchange(client))) == 0

    heads, line = capsys.readouterr().out.splitlines()
    assert heads.split() == ["id", "created_at", "client", "call", "state", "why"]
    assert line.split()[2:] == ["local", "POST", "/v1/audio/tts", "unknown", "made", "up"]
