"""`homing demo`: send tasks through a sandbox full of faults, and compare the result with the sandbox's ledger.

Homing and the sandbox are real servers on loopback that use HTTP. Only ``POLICY`` is not the default.
"""

import asyncio
import secrets
import tempfile
import time
from argparse import Namespace
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx

from homing.demo.summary import Document, first_report, lines, summarize
from homing.sandbox import SandboxSettings, serve_in_thread
from homing.serve import Homing
from homing.server.logs import set_up_logs
from homing.server.web_server import Stop, address, listen, running
from homing.terminal import print_json, print_line
from tracker.model.keys import NamedKey
from tracker.model.task import FINAL, SETTLED
from tracker.rules.schedule import Policy
from tracker.settings import Settings

PAUSE_SECONDS: Final = 0.25
# The rates are much higher than real ones, so that forty tasks have every fault.
RATES: Final[Mapping[float, str]] = {
    0.25: "callback_lost callback_doubled callback_forged callback_out_of_order",
    0.15: "callback_late callback_replayed",
    0.1: "callback_contradictory callback_unsigned callback_empty_result submit_reply_lost submit_busy query_error",
    0.05: "callback_unknown_status submit_unavailable server_error slow dripping",
}
FAULTS: Final = {fault: rate for rate, faults in RATES.items() for fault in faults.split()}
POLICY: Final = Policy(
    answer_within=timedelta(seconds=5),
    attempt=timedelta(seconds=2),
    query=timedelta(seconds=2),
    lease_margin=timedelta(seconds=1),
    absence_wait=timedelta(seconds=3),
    absence_gap=timedelta(seconds=1),
    first_poll_delay=timedelta(seconds=5),
    least_gap=timedelta(seconds=1.5),
    greatest_gap=timedelta(seconds=3),
    early_poll_gap=timedelta(seconds=1.5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """One run with two servers. ``say`` prints one line."""

    sandbox: str
    http: httpx.AsyncClient
    prompts: list[str]
    say: Callable[[str], None]

    async def play(self) -> Document:
        """Send all create requests, wait until all tasks have ended or the time is over, and return the summary."""
        started = time.monotonic()
        self.say(f"Homing runs on {self.http.base_url}. A sandbox with all of its faults runs on {self.sandbox}.")
        self.say("To save time, tasks run about 3 s, and the first poll comes after 5 s instead of 40 s.")
        with suppress(TimeoutError):
            async with asyncio.timeout(55) as limit, asyncio.TaskGroup() as group:
                await self._watch(group.create_task(self._send_all()), started)
        seconds = time.monotonic() - started
        histories = [await self._get(f"/v1/tasks/{task['id']}/history") for task in await self._tasks()]
        stats, ledger = await self._get("/v1/stats"), await self._get(f"{self.sandbox}/sandbox/ledger")
        return summarize(self.prompts, histories, stats, ledger, seconds=seconds, timed_out=limit.expired())

    async def _send_all(self) -> None:
        parallel = asyncio.Semaphore(8)

        async def submit(number: int, prompt: str) -> None:
            # Every eighth client loses the connection after Homing got its request, and repeats the request.
            for _ in range(1 if number % 8 else 2):
                async with parallel:
                    await self._send(f"order-{number}", prompt)

        async with asyncio.TaskGroup() as group:
            for number, prompt in enumerate(self.prompts, start=1):
                group.create_task(submit(number, prompt))

    async def _send(self, external_id: str, prompt: str) -> None:
        """Send one create request. Like a real client, repeat it with the same ID on 429, 5xx and a lost connection."""
        body = {"model_name": "kling-v3-omni", "prompt": prompt, "n": 1, "external_task_id": external_id}
        for _ in range(12):
            pause = PAUSE_SECONDS
            with suppress(httpx.HTTPError):
                answer = await self.http.post("/kling/v1/images/omni-image", json=body)
                if answer.status_code not in {429, 500, 502, 503, 504}:
                    return
                pause = float(answer.headers.get("retry-after", pause))
            await asyncio.sleep(pause)

    async def _watch(self, sending: asyncio.Task[None], started: float) -> None:
        """Print each task that finishes, until no task, poll or callback is left."""
        finished: set[str] = set()
        while True:
            tasks = await self._tasks()
            for task in tasks:
                if task["status"] in FINAL and task["id"] not in finished:
                    finished.add(task["id"])
                    source = first_report(await self._get(f"/v1/tasks/{task['id']}/history"))
                    line = f"{task['request']['prompt']}  {task['status']}, first reported by {source}"
                    self.say(f"{time.monotonic() - started:5.1f} s  {line}  ({len(finished)} finished)")
            if sending.done() and all(task["status"] in SETTLED and not task["next_poll_at"] for task in tasks):
                ledger = await self._get(f"{self.sandbox}/sandbox/ledger")
                if all(task["final"] for task in ledger["tasks"]) and not ledger["callbacks"]["waiting"]:
                    return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _tasks(self) -> list[Document]:
        """Return every task, oldest first."""
        tasks: list[Document] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await self._get(f"/v1/tasks?limit=200{cursor and '&cursor='}{cursor}")
            tasks += page["tasks"]
            cursor = page["next_cursor"]
        return tasks[::-1]

    async def _get(self, url: str) -> Document:
        answer = await self.http.get(url)
        return dict(answer.raise_for_status().json())


def run(args: Namespace) -> int:
    """Run the demo. Return the exit status: 0 only if no task is lost, doubled, wrong or unfinished."""
    set_up_logs("error")
    return asyncio.run(_run(args))


async def _run(args: Namespace) -> int:
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
    key = NamedKey(name="demo", key=secrets.token_urlsafe(32), sees_all=True)
    authorization = {"Authorization": f"Bearer {key.key}"}
    provider = SandboxSettings(
        seed=args.seed, webhook_secrets=(secret,), faults=FAULTS,
        run_time=3.0, run_time_sigma=0.4, failure_rate=0.1, slow_by=1.0, late_by=3.0,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="homing-demo-"))
        sandbox = stack.enter_context(serve_in_thread(provider))
        listener = stack.enter_context(listen("127.0.0.1", args.port))
        url = address(listener)
        settings = Settings(
            database_url=f"sqlite:///{directory}/homing.db",
            public_url=url,
            kling_base_url=sandbox.base_url,
            kling_api_key=sandbox.api_key,
            kling_webhook_secrets=(secret,),
            polls_per_minute=6000,
            api_keys=(key,),
        )
        homing = await stack.enter_async_context(Homing(settings, policy=POLICY))
        serving = await stack.enter_async_context(running(homing.app, listener))
        client = httpx.AsyncClient(base_url=url, headers=authorization, timeout=30, trust_env=False)
        http = await stack.enter_async_context(client)
        prompts = [f"task {number:02}" for number in range(1, args.tasks + 1)]
        say: Callable[[str], None] = print_line if not args.json else lambda _: None
        summary = await Demo(sandbox=sandbox.base_url, http=http, prompts=prompts, say=say).play()
        if args.json:
            print_json(summary)
        for line in lines(summary):
            say(line)
        if args.keep_open:
            print_line(f"Open until Ctrl-C: {url}, and the sandbox's ledger at {sandbox.base_url}/sandbox/ledger")
            print_line(f'  curl {url}/v1/tasks -H "Authorization: Bearer {key.key}"')
            print_line(f"  HOMING_API_URL={url} HOMING_API_KEYS='{key.name}*:{key.key}' homing tasks")
            await Stop().wait(serving)
    return 0 if summary["ok"] else 1
