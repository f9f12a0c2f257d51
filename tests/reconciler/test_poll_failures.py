"""Provider failures are visible in the task's history, in `homing why`, in readiness and in the log."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from homing.commands.why import explain
from homing.sandbox import RunningSandbox
from tests.support.conditions import until
from tests.support.homing_server import ANYBODY, SHORT, SILENT, HomingServer, homing_server
from tests.support.provider_proxy import Answer, Request, provider_proxy, refusal
from tracker.model.records import AccountState
from tracker.model.task import Trouble, Verdict
from tracker.storage.alarm_log import log as alarm_log

PAGE = Answer(status=200, body=b"<html>sign in, sandbox-api-key</html>", headers={"content-type": "text/html"})
REFUSED = refusal(401, 1002, "made-up text about sandbox-api-key")


async def state(homing: HomingServer) -> AccountState | None:
    states: Sequence[AccountState] = await homing.tracker.store.accounts.states()
    return states[0] if states else None


async def troubled(homing: HomingServer, trouble: Trouble | None) -> None:
    """Wait until the account's failure is recorded, which happens after the answer."""

    async def recorded() -> bool:
        known = await state(homing)
        return known is not None and known.trouble is trouble

    await until(recorded)


async def why(homing: HomingServer, ref: str) -> list[str]:
    document: dict[str, Any] = (await homing.client.get(f"/v1/tasks/{ref}/history")).json()
    return explain(document["task"], document["entries"], datetime.now(UTC), account=document["account"])


async def checks(homing: HomingServer) -> tuple[int, dict[str, bool]]:
    reply = await homing.client.get("/readyz")
    return reply.status_code, {check["name"]: check["ok"] for check in reply.json()["checks"]}


async def test_unreadable_polls_are_one_counted_entry(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    answers: list[Answer] = [PAGE] * 4

    async def script(request: Request) -> Answer | None:
        return answers.pop() if request.asks_one and answers else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=SILENT, callbacks=False, loops=False) as homing,
    ):
        ours = await homing.created()
        outcomes = [(await homing.tracker.poll(ANYBODY, ours))[1] for _ in range(4)]
        await troubled(homing, Trouble.UNREADABLE)

        _, entries = await homing.tracker.history(ANYBODY, ours)
        (failed,) = [entry for entry in entries if entry.verdict is Verdict.UNREADABLE]
        reasons = await why(homing, ours)
        alarms = await homing.alarms()

        assert set(outcomes) == {"the answer cannot be read: HTTP 200: a web page, not JSON"}
        assert (failed.repeats, failed.why, failed.body) == (3, outcomes[0], b"<html>sign in, ***</html>")
        assert alarms["unreadable_answer"] == 2
        assert reasons[0].startswith("The provider's answers have not been readable for")
        assert "(3 more before it), got no usable answer: the answer cannot be read" in " ".join(reasons)
        assert "The answer began with '<html>sign in, ***</html>'" in " ".join(reasons)

        await homing.tracker.poll(ANYBODY, ours)
        await troubled(homing, None)
        assert not [line for line in await why(homing, ours) if "readable" in line]


async def test_refused_credential_is_shown_everywhere(
    tmp_path: Path, kling_sandbox: RunningSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = True

    async def script(request: Request) -> Answer | None:
        return REFUSED if refusing and request.creates else await request.forward()

    caplog.set_level(logging.WARNING, alarm_log.name)
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=SILENT, callbacks=False, loops=False) as homing,
    ):
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind="images/omni-image", external_id="mine")
        statuses = [(await homing.create(prompt=f"picture {number}")).status_code for number in range(2)]
        await troubled(homing, Trouble.CREDENTIAL)

        assert all(status >= 400 for status in statuses)
        assert await checks(homing) == (200, {"database": True, "provider kling": False})
        assert (await why(homing, expected.task.id))[0].startswith("The provider has refused this server's credential")
        lines = [record.getMessage() for record in caplog.records if record.name == alarm_log.name]
        assert [one.split(":")[0] for one in lines] == ["alarm credential"]
        assert "sandbox-api-key" not in caplog.text

        refusing = False
        await homing.created()
        await troubled(homing, None)
        assert await why(homing, expected.task.id) != []
        homing.clock.ahead += timedelta(seconds=2)
        assert await checks(homing) == (200, {"database": True})


async def test_busy_poll_text_shows_no_credential(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:
        return refusal(429, 1303, "too many for sandbox-api-key") if request.asks_one else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=SILENT, callbacks=False, loops=False) as homing,
    ):
        ours = await homing.created()
        outcome = (await homing.client.post(f"/v1/tasks/{ours}/poll")).json()["outcome"]

    assert outcome == "busy: too many for ***"


async def test_polls_beyond_budget_show_the_reason(
    tmp_path: Path, kling_sandbox_factory: Callable[..., RunningSandbox]
) -> None:
    sandbox, policy = kling_sandbox_factory(held=True), replace(SHORT, budget=4)
    async with homing_server(tmp_path, sandbox.base_url, policy=policy, callbacks=False, loops=False) as homing:
        ours = await homing.created()

        async def waits_after_another_look() -> bool:
            homing.clock.ahead += timedelta(seconds=2)
            await homing.reconciler.run_once()
            known = await state(homing)
            return known is not None and known.waited_at is not None

        # How many polls the budget allows before depends on how long all this takes.
        await until(waits_after_another_look)
        assert any(line.startswith("Polls wait for the budget") for line in await why(homing, ours))
