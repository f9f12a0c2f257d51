"""`homing demo`: the main job, seen. A sandbox full of faults, a server beside it, and tasks that all come home.

Both are real servers on loopback and everything between them is HTTP. The judge is the sandbox's ledger, which knows
what truly happened. Only the waiting is shortened (``POLICY``): a real task runs for most of a minute, and a submit
that the provider may have is left alone for half of one.
"""

import asyncio
import secrets
import tempfile
import time
from argparse import Namespace
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx

from homing.demo.account import Account, Document, account, as_json
from homing.demo.screen import Screen, screen, summary
from homing.sandbox import RunningSandbox, SandboxSettings, serve_in_thread
from homing.serve import Homing
from homing.server.logs import set_up_logs
from homing.server.web_server import Stop, address, listen, running
from homing.terminal import print_json, print_line
from tracker.model.keys import NamedKey
from tracker.model.task import SETTLED
from tracker.rules.schedule import Policy
from tracker.settings import Settings

LIMIT: Final = 55.0
PAUSE: Final = 0.25
AT_ONCE: Final = 8
SENDS: Final = 12
RESENT_EACH: Final = 8
# What real clients of the provider send again by themselves.
AGAIN: Final = frozenset({429, 500, 502, 503, 504})
GATEWAY: Final = "/kling/v1/images/omni-image"
# Rates are far above anything real, so that forty tasks meet every fault.
FAULTS: Final[Mapping[str, float]] = {
    "callback_lost": 0.25,
    "callback_late": 0.15,
    "callback_doubled": 0.25,
    "callback_out_of_order": 0.2,
    "callback_contradictory": 0.1,
    "callback_forged": 0.25,
    "callback_replayed": 0.15,
    "callback_unsigned": 0.1,
    "callback_unknown_word": 0.05,
    "callback_empty_result": 0.1,
    "submit_reply_lost": 0.1,
    "submit_busy": 0.1,
    "submit_unavailable": 0.05,
    "server_error": 0.08,
    "query_error": 0.1,
    "slow": 0.1,
    "dripping": 0.05,
}
POLICY: Final = Policy(
    answer_within=timedelta(seconds=5),
    attempt=timedelta(seconds=2),
    query=timedelta(seconds=2),
    lease_margin=timedelta(seconds=1),
    absence_wait=timedelta(seconds=3),
    absence_gap=timedelta(seconds=1),
    first_lookup=timedelta(seconds=1),
    busy_delay=timedelta(milliseconds=300),
    first_check=timedelta(seconds=5),
    least_gap=timedelta(seconds=1.5),
    greatest_gap=timedelta(seconds=3),
    hint_delay=timedelta(milliseconds=500),
    hint_gap=timedelta(seconds=1.5),
)
SHORTENED: Final = (
    "Waiting is shortened: tasks run about 3 s, the provider is first asked after 5 s instead of 40 s, and a submit "
    "that was not answered is sent again once the provider has twice denied having it, from 3 s on instead of 30 s."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The two servers, as the demo's client sees them."""

    sandbox: RunningSandbox
    url: str
    http: httpx.AsyncClient
    prompts: Sequence[str]


def run(args: Namespace) -> int:
    """Run the demo and return the exit status: 0 only where nothing was lost, doubled or wrong."""
    set_up_logs("error")
    return asyncio.run(_run(args))


async def _run(args: Namespace) -> int:
    prompts = [f"picture {number:02}" for number in range(1, args.tasks + 1)]
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
    key = NamedKey(name="demo", key=secrets.token_urlsafe(32), sees_all=True)
    played = SandboxSettings(
        seed=args.seed,
        webhook_secrets=(secret,),
        faults=FAULTS,
        run_time=3.0,
        run_time_sigma=0.4,
        failure_rate=0.1,
        slow_by=1.0,
        late_by=3.0,
    )
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="homing-demo-")))
        sandbox = stack.enter_context(serve_in_thread(played))
        listener = stack.enter_context(listen("127.0.0.1", args.port))
        url = address(listener)
        settings = Settings(
            database_url=f"sqlite:///{directory / 'homing.db'}",
            public_url=url,
            kling_base_url=sandbox.base_url,
            kling_api_key=sandbox.api_key,
            kling_webhook_secrets=(secret,),
            poll_budget=6000,
            api_keys=(key,),
        )
        homing = await stack.enter_async_context(Homing(settings, policy=POLICY))
        serving = await stack.enter_async_context(running(homing.app, listener))
        headers = {"Authorization": f"Bearer {key.key}"}
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False)
        http = await stack.enter_async_context(client)
        stage = Stage(sandbox=sandbox, url=url, http=http, prompts=prompts)
        told = await play(stage, args)
        if args.keep_open:
            _invite(stage, directory, key)
            await Stop().wait(serving)
    return 0 if told.clean else 1


async def play(stage: Stage, args: Namespace) -> Account:
    """Send every order, watch until all is quiet or the time is over, and judge."""
    started = time.monotonic()
    with screen(len(stage.prompts), as_json=args.json) as shown:
        shown.say(f"Homing on {stage.url}, a sandbox provider with every fault it knows on {stage.sandbox.base_url}.")
        shown.say(SHORTENED)
        try:
            async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
                sending = group.create_task(_send_all(stage))
                await _watch(stage, shown, sending, started)
            timed_out = False
        except TimeoutError:
            timed_out = True
    seconds = time.monotonic() - started
    told = await _judge(stage, seconds=seconds, timed_out=timed_out)
    if args.json:
        print_json(as_json(told))
    else:
        for line in summary(told):
            print_line(line)
    return told


async def _send_all(stage: Stage) -> None:
    bound = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, prompt: str) -> None:
        async with bound:
            await _send(stage, number, prompt)
            if number % RESENT_EACH == 0:
                # A client whose connection broke after its order was taken: it sends the same order again.
                await _send(stage, number, prompt)

    async with asyncio.TaskGroup() as group:
        for number, prompt in enumerate(stage.prompts, start=1):
            group.create_task(one(number, prompt))


async def _send(stage: Stage, number: int, prompt: str) -> None:
    """Send one order as real clients do: again, with the same id, on 429, 5xx and a broken connection."""
    body = {"model_name": "kling-v3-omni", "prompt": prompt, "n": 1, "external_task_id": f"order-{number}"}
    for _ in range(SENDS):
        try:
            answer = await stage.http.post(GATEWAY, json=body)
        except httpx.HTTPError:
            await asyncio.sleep(PAUSE)
            continue
        if answer.status_code not in AGAIN:
            return
        await asyncio.sleep(float(answer.headers.get("retry-after", PAUSE)))


async def _watch(stage: Stage, shown: Screen, sending: asyncio.Task[None], started: float) -> None:
    """Show the tasks until every one is settled, nothing is left to ask, and the sandbox has nothing left to say."""
    while True:
        tasks = await _tasks(stage)
        shown.show(tasks, time.monotonic() - started)
        settled = all(task["status"] in SETTLED and task["next_poll_at"] is None for task in tasks)
        if sending.done() and settled and _quiet(await _ledger(stage)):
            return
        await asyncio.sleep(PAUSE)


async def _judge(stage: Stage, *, seconds: float, timed_out: bool) -> Account:
    histories = [await _get(stage, f"/v1/tasks/{task['id']}/history") for task in await _tasks(stage)]
    stats = await _get(stage, "/v1/stats")
    ledger = await _ledger(stage)
    return account(stage.prompts, histories, stats, ledger, seconds=seconds, timed_out=timed_out)


async def _tasks(stage: Stage) -> list[Document]:
    """Return every task, oldest first, page by page."""
    tasks: list[Document] = []
    page = await _get(stage, "/v1/tasks?limit=200")
    while True:
        tasks += page["tasks"]
        if page["next_cursor"] is None:
            return tasks[::-1]
        page = await _get(stage, f"/v1/tasks?limit=200&cursor={page['next_cursor']}")


async def _get(stage: Stage, path: str) -> Document:
    answer = await stage.http.get(path)
    answer.raise_for_status()
    document: Document = answer.json()
    return document


async def _ledger(stage: Stage) -> Document:
    """Read what truly happened; the sandbox is asked over HTTP and blocks, so from a thread."""
    return await asyncio.to_thread(lambda: stage.sandbox.ledger)


def _quiet(ledger: Document) -> bool:
    return all(task["final"] for task in ledger["tasks"]) and not ledger["callbacks"]["waiting"]


def _invite(stage: Stage, directory: Path, key: NamedKey) -> None:
    """Say where to look while it stays open."""
    print_line("")
    print_line(
        f"Left open until Ctrl-C: {stage.url} and the sandbox's ledger at {stage.sandbox.base_url}/sandbox/ledger"
    )
    print_line(f'  curl {stage.url}/v1/tasks -H "Authorization: Bearer {key.key}"')
    print_line(f"  HOMING_API_URL={stage.url} HOMING_API_KEYS='{key.name}*:{key.key}' homing tasks")
    print_line(f"The database is in {directory} and goes when this ends.")
